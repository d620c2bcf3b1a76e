#include "bindings/bindings.h"
#include "bindings/gil.h"
#include "bindings/integers.h"
#include "cpu_threads.h"
#include "errors.h"
#include "model/wrapper.h"
#include "parse_json.h"
#include "text/abstention.h"
#include "text/sentences.h"

#include "ggml-alloc.h"

namespace py = pybind11;

namespace metadeploy {

namespace {

using float_array = py::array_t<float, py::array::c_style | py::array::forcecast>;

std::vector<float> to_rows(const float_array & array, int64_t n_rows, int64_t n_cols, const char * what) {
    if (array.ndim() != 2 || array.shape(0) != n_rows || array.shape(1) != n_cols) {
        throw py::value_error(
            std::string(what) + " must have shape [" + std::to_string(n_rows) + ", " + std::to_string(n_cols) + "]");
    }
    return {array.data(), array.data() + array.size()};
}

py::dict describe(const wrapper_config & config) {
    py::dict d;
    d["encoder_type"] = encoder_type_name(config.encoder);
    d["hidden_dim"] = config.n_embd;
    d["encoder_dim"] = config.n_enc;
    d["bottleneck_dim"] = config.n_bottleneck;
    d["num_cognitive_tokens"] = config.n_cog;
    d["ca_num_heads"] = config.n_ca_head;
    d["enc_num_heads"] = config.n_enc_head;
    d["target_layers"] = py::tuple(py::cast(config.target_layers));
    d["cross_attn_layers"] = py::tuple(py::cast(config.cross_attn_layers));
    d["inject_from"] = inject_from_name(config.from);
    d["refusal_text"] = config.refusal_text;
    d["refusal_token_ids"] = py::tuple(py::cast(config.refusal_token_ids));
    d["refusal_bias"] = config.refusal_bias;
    d["prompt_format"] = config.prompt_format;
    d["answer_suffix"] = config.answer_suffix;
    d["chat_template_kwargs"] = config.chat_template_kwargs;
    d["base_block_count"] = config.base_block_count;
    d["checkpoint_sha256"] = config.checkpoint_sha256;
    d["kind"] = config.kind;
    return d;
}

// A wrapper in host memory without a base: the compiled encoder and injection by themselves.
class host_wrapper {
public:
    explicit host_wrapper(const std::string & path)
        : impl(read_sidecar(path), [](int) { return ggml_backend_cpu_buffer_type(); }),
          cpu(ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, nullptr)) {
        set_one_thread(cpu.get());
    }

    const wrapper_config & config() const { return impl.config(); }

    py::array_t<float> encode(const float_array & activations) {
        const auto n_target = (int64_t)config().target_layers.size();
        impl.set_activations(to_rows(activations, n_target, config().n_embd, "activations"));
        impl.encode();
        return to_numpy(impl.cognitive_tokens(), {config().n_cog, config().n_embd});
    }

    py::tuple inject(int il, const float_array & hidden, const float_array & tokens, float gain) {
        const ca_tables * tables = impl.tables(il);
        if (!tables) {
            throw py::index_error("layer " + std::to_string(il) + " has no cross-attention");
        }
        const int64_t n_tokens = hidden.ndim() == 2 ? hidden.shape(0) : 0;
        const std::vector<float> rows = to_rows(hidden, n_tokens, config().n_embd, "hidden");
        if (n_tokens == 0) {
            throw py::value_error("hidden must have at least one row");
        }
        impl.fold(to_rows(tokens, config().n_cog, config().n_embd, "cognitive tokens"));

        ggml_context_ptr ctx(ggml_init({32 * ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, true}));
        ggml_tensor * cur = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, config().n_embd, n_tokens);
        ggml_tensor * gains = ggml_new_tensor_3d(ctx.get(), GGML_TYPE_F32, 1, 1, n_tokens);
        const ca_result result = build_injection(ctx.get(), cur, *tables, gains);
        ggml_cgraph * gf = ggml_new_graph(ctx.get());
        ggml_build_forward_expand(gf, result.out);
        const ggml_backend_buffer_ptr buf(ggml_backend_alloc_ctx_tensors(ctx.get(), cpu.get()));
        ggml_backend_tensor_set(cur, rows.data(), 0, ggml_nbytes(cur));
        const std::vector<float> gain_rows((size_t)n_tokens, gain);
        ggml_backend_tensor_set(gains, gain_rows.data(), 0, ggml_nbytes(gains));
        ggml_backend_graph_compute(cpu.get(), gf);

        std::vector<float> out((size_t)ggml_nelements(result.out));
        ggml_backend_tensor_get(result.out, out.data(), 0, ggml_nbytes(result.out));
        std::vector<float> attn((size_t)ggml_nelements(result.attn));
        ggml_backend_tensor_get(result.attn, attn.data(), 0, ggml_nbytes(result.attn));
        return py::make_tuple(
            to_numpy(std::move(out), {n_tokens, config().n_embd}),
            to_numpy(std::move(attn), {n_tokens, config().n_ca_head, config().n_cog}));
    }

private:
    wrapper impl;
    ggml_backend_ptr cpu;
};

} // namespace

void register_sidecar(py::module_ & m) {
    m.attr("SIDECAR_FORMAT_VERSION") = SIDECAR_FORMAT_VERSION;
    m.def(
        "read_sidecar",
        [](const std::string & path) {
            const sidecar source = [&] {
                const without_gil release;
                return read_sidecar(path);
            }();
            py::dict shapes;
            for (const auto & [name, tensor] : source.tensors) {
                shapes[py::str(name)] = py::tuple(py::cast(tensor.shape));
            }
            return py::make_tuple(describe(source.config), shapes);
        },
        py::arg("path"), "Read and validate a sidecar: its configuration and the shapes of its tensors.");
    m.def(
        "parse_json",
        [](const py::bytes & text) {
            std::string fault;
            const auto found = parse_json(text, fault);
            if (!found) {
                throw py::value_error(fault);
            }
            return to_str(found->dump());
        },
        py::arg("text"), "Parse JSON with the core's parser and serialize it again. Raises ValueError.");
    m.def(
        "is_abstention", &is_abstention, py::arg("answer"), py::arg("refusal_text"), py::arg("truncated"),
        "Whether the opening sentence of an answer is the refusal; truncated: the answer was cut off.");

    m.def(
        "sentences",
        [](const py::bytes & text) {
            const std::string whole = text;
            std::vector<std::pair<size_t, size_t>> spans;
            size_t from = 0;
            while (const std::optional<sentence_span> span = next_sentence(whole, from, /*is_final =*/true)) {
                spans.emplace_back(span->begin, span->end);
                from = span->end;
            }
            return spans;
        },
        py::arg("text"), "The sentences of a UTF-8 text, as (first byte, end byte).");

    m.def(
        "refusal_text_fault", &refusal_text_fault, py::arg("refusal_text"),
        "Why a text cannot be a refusal; empty if it can.");

    py::class_<host_wrapper>(
        m, "HostWrapper", "A wrapper without a base, on the CPU: the compiled encoder and injection by themselves.")
        .def(py::init<const std::string &>(), py::arg("path"))
        .def_property_readonly("config", [](const host_wrapper & self) { return describe(self.config()); })
        .def(
            "encode", &host_wrapper::encode, py::arg("activations"),
            "Activations F32 [n_target, n_embd] to cognitive tokens F32 [n_cog, n_embd].")
        .def(
            "inject", &host_wrapper::inject, py::arg("layer"), py::arg("hidden"), py::arg("cognitive_tokens"),
            py::arg("gain") = 1.0f,
            "Hidden states F32 [n_tokens, n_embd] after the injection of one layer, and the attention over the\n"
            "cognitive tokens F32 [n_tokens, n_head, n_cog].");
}

} // namespace metadeploy
