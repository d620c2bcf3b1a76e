#include "bindings/bindings.h"
#include "bindings/interrupt.h"
#include "runtime/cpu_threads.h"
#include "runtime/quantize.h"

#include <map>
#include <mutex>

namespace py = pybind11;

namespace metadeploy {

namespace {

struct engine_options {
    std::string model;
    std::string chat_template;
    int32_t n_ctx = 4096;
    int32_t n_parallel = 1;
    int32_t n_batch = 2048;
    int32_t n_ubatch = 512;
    int32_t n_threads = -1;
    int32_t n_threads_batch = -1;
    int32_t n_gpu_layers = -1;
    std::string type_k = "f16";
    std::string type_v = "f16";
    std::string flash_attn = "auto";
    int32_t hidden_cache_mib = cache_limits().hidden_mib;
    int32_t prefix_cache_mib = cache_limits().prefix_mib;
};

ggml_type parse_cache_type(const std::string & name) {
    for (const ggml_type type :
         {GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_BF16, GGML_TYPE_Q8_0, GGML_TYPE_Q5_1, GGML_TYPE_Q5_0, GGML_TYPE_Q4_1,
          GGML_TYPE_Q4_0, GGML_TYPE_IQ4_NL}) {
        if (name == ggml_type_name(type)) {
            return type;
        }
    }
    throw py::value_error(
        "cache type is '" + name + "', expected f32, f16, bf16, q8_0, q5_1, q5_0, q4_1, q4_0 or iq4_nl");
}

llama_flash_attn_type parse_flash_attn(const std::string & name) {
    const std::map<std::string, llama_flash_attn_type> types = {
        {"auto", LLAMA_FLASH_ATTN_TYPE_AUTO},
        {"on", LLAMA_FLASH_ATTN_TYPE_ENABLED},
        {"off", LLAMA_FLASH_ATTN_TYPE_DISABLED}};
    const auto it = types.find(name);
    if (it == types.end()) {
        throw py::value_error("flash_attn is '" + name + "', expected auto, on or off");
    }
    return it->second;
}

common_params to_common_params(const engine_options & options) {
    common_params params;
    params.model.path = options.model;
    params.chat_template = options.chat_template;
    params.n_ctx = options.n_ctx;
    params.n_parallel = options.n_parallel;
    params.n_batch = options.n_batch;
    params.n_ubatch = options.n_ubatch;
    set_cpu_defaults(params.cpuparams);
    if (options.n_threads > 0) {
        params.cpuparams.n_threads = options.n_threads;
    }
    params.cpuparams_batch.n_threads = options.n_threads_batch;
    params.n_gpu_layers = options.n_gpu_layers;
    params.cache_type_k = parse_cache_type(options.type_k);
    params.cache_type_v = parse_cache_type(options.type_v);
    params.flash_attn_type = parse_flash_attn(options.flash_attn);
    params.fit_params = false; // what the caller asks for is what he gets, or an error
    params.warmup = false;
    postprocess_cpu_params(params.cpuparams, nullptr);
    postprocess_cpu_params(params.cpuparams_batch, &params.cpuparams);
    return params;
}

void init_backend_once() {
    static std::once_flag flag;
    std::call_once(flag, [] { llama_backend_init(); });
}

// engine with what its Python caller passes to every long call
class py_engine {
public:
    explicit py_engine(const engine_options & options) {
        init_backend_once();
        const common_params params = to_common_params(options);
        cache_limits limits;
        limits.hidden_mib = options.hidden_cache_mib;
        limits.prefix_mib = options.prefix_cache_mib;
        const py::gil_scoped_release release;
        impl = std::make_unique<engine>(params, limits);
    }

    engine & get() {
        if (!impl) {
            throw error("the model is closed");
        }
        return *impl;
    }

    void close() {
        const py::gil_scoped_release release;
        impl.reset();
    }

    bool closed() const { return !impl; }

private:
    std::unique_ptr<engine> impl;
};

} // namespace

engine & engine_of(const py::object & object) {
    return object.cast<py_engine &>().get();
}

void register_engine(py::module_ & m) {
    py::class_<engine_options>(m, "EngineOptions", "How to load a base model; the fields of MetaLlama's constructor.")
        .def(py::init<>())
        .def_readwrite("model", &engine_options::model)
        .def_readwrite("chat_template", &engine_options::chat_template)
        .def_readwrite("n_ctx", &engine_options::n_ctx)
        .def_readwrite("n_parallel", &engine_options::n_parallel)
        .def_readwrite("n_batch", &engine_options::n_batch)
        .def_readwrite("n_ubatch", &engine_options::n_ubatch)
        .def_readwrite("n_threads", &engine_options::n_threads)
        .def_readwrite("n_threads_batch", &engine_options::n_threads_batch)
        .def_readwrite("n_gpu_layers", &engine_options::n_gpu_layers)
        .def_readwrite("type_k", &engine_options::type_k)
        .def_readwrite("type_v", &engine_options::type_v)
        .def_readwrite("flash_attn", &engine_options::flash_attn)
        .def_readwrite("hidden_cache_mib", &engine_options::hidden_cache_mib)
        .def_readwrite("prefix_cache_mib", &engine_options::prefix_cache_mib);

    m.def(
        "quantize",
        [](const std::string & src, const std::string & dst, const std::string & file_type, int n_threads) {
            init_backend_once();
            const py::gil_scoped_release release;
            quantize_model(src, dst, file_type, n_threads);
        },
        py::arg("src"), py::arg("dst"), py::arg("file_type"), py::arg("n_threads") = 0,
        "Write a copy of a base GGUF with weights of another type (F16, Q8_0, Q4_K_M ...).");

    m.def(
        "set_cancel_interval",
        [](double milliseconds) {
            if (!(milliseconds >= 0.0 && milliseconds <= 1000.0)) {
                throw error("the interval is " + std::to_string(milliseconds) + " ms, expected 0 to 1000");
            }
            const double before = cancel_interval.count();
            cancel_interval = decltype(cancel_interval)(milliseconds);
            return before;
        },
        py::arg("milliseconds"),
        "How often a running call asks for signals and its cancel callback at most; 0: between any two nodes of a "
        "graph.\n"
        "Returns what it was, 50 at first.");

    using tokens_t = std::vector<llama_token>;
    py::class_<py_engine>(m, "Engine", "A base model with its context and, beside it, a wrapper. Not thread-safe.")
        .def(py::init<const engine_options &>(), py::arg("options"))
        .def("close", &py_engine::close)
        .def_property_readonly("closed", &py_engine::closed)
        .def(
            "attach",
            [](py_engine & self, const std::string & path, bool folded) {
                engine & eng = self.get();
                const py::gil_scoped_release release;
                eng.attach(path, folded);
            },
            py::arg("sidecar"), py::arg("folded") = true)
        .def("detach", [](py_engine & self) { self.get().detach(); })
        .def_property_readonly(
            "sidecar",
            [](py_engine & self) -> py::object {
                const wrapper * meta = self.get().meta();
                return meta ? py::object(py::str(meta->path())) : py::none();
            })
        .def_property_readonly(
            "sidecar_bytes",
            [](py_engine & self) {
                const wrapper * meta = self.get().meta();
                return meta ? meta->n_bytes() : 0;
            })
        .def_property_readonly(
            "gates",
            [](py_engine & self) {
                const wrapper * meta = self.get().meta();
                const std::vector<float> gates = meta ? meta->gates() : std::vector<float>();
                return to_numpy(gates, {(py::ssize_t)gates.size()});
            })
        .def_property_readonly(
            "target_layers",
            [](py_engine & self) {
                const wrapper * meta = self.get().meta();
                return meta ? meta->config().target_layers : std::vector<int32_t>();
            })
        .def_property_readonly(
            "cross_attn_layers",
            [](py_engine & self) {
                const wrapper * meta = self.get().meta();
                return meta ? meta->config().cross_attn_layers : std::vector<int32_t>();
            })
        .def_property_readonly(
            "refusal_text",
            [](py_engine & self) {
                const wrapper * meta = self.get().meta();
                return meta ? meta->config().refusal_text : std::string(DEFAULT_REFUSAL_TEXT);
            })
        .def_property_readonly("n_ctx", [](py_engine & self) { return self.get().n_ctx(); })
        .def_property_readonly("n_parallel", [](py_engine & self) { return self.get().sequences().size(); })
        .def_property_readonly("n_embd", [](py_engine & self) { return self.get().n_embd(); })
        .def_property_readonly("n_layer", [](py_engine & self) { return self.get().n_layer(); })
        .def_property_readonly("n_vocab", [](py_engine & self) { return self.get().n_vocab(); })
        .def_property_readonly("bos", [](py_engine & self) { return llama_vocab_bos(self.get().vocab()); })
        .def_property_readonly("eos", [](py_engine & self) { return llama_vocab_eos(self.get().vocab()); })
        .def(
            "is_eog", [](py_engine & self, llama_token token) { return llama_vocab_is_eog(self.get().vocab(), token); })
        .def_property_readonly("has_chat_template", [](py_engine & self) { return self.get().has_chat_template(); })
        .def(
            "tokenize",
            [](py_engine & self, const std::string & text, bool add_special, bool parse_special) {
                return self.get().tokenize(text, add_special, parse_special);
            },
            py::arg("text"), py::arg("add_special"), py::arg("parse_special"))
        .def(
            "detokenize",
            [](py_engine & self, const tokens_t & tokens, bool special) {
                return py::bytes(self.get().detokenize(tokens, special));
            },
            py::arg("tokens"), py::arg("special"))
        .def(
            "apply_chat_template",
            [](py_engine & self, const std::vector<std::pair<std::string, std::string>> & messages) {
                std::vector<chat_message> list;
                for (const auto & [role, content] : messages) {
                    list.push_back({role, content});
                }
                return self.get().apply_chat_template(list);
            },
            py::arg("messages"))
        .def(
            "activations",
            [](py_engine & self, const tokens_t & tokens, const py::object & cancel) {
                engine & eng = self.get();
                auto rows = run_interruptible(eng, cancel, [&] { return eng.activations(tokens); });
                return to_numpy(
                    std::move(rows), {(py::ssize_t)eng.meta()->config().target_layers.size(), eng.n_embd()});
            },
            py::arg("tokens"), py::arg("cancel") = py::none())
        .def(
            "cognitive_tokens",
            [](py_engine & self, const tokens_t & tokens, const py::object & cancel) {
                engine & eng = self.get();
                auto rows = run_interruptible(eng, cancel, [&] { return eng.cognitive_tokens(tokens); });
                return to_numpy(std::move(rows), {eng.meta()->config().n_cog, eng.n_embd()});
            },
            py::arg("tokens"), py::arg("cancel") = py::none())
        .def(
            "doubt",
            [](py_engine & self, const tokens_t & tokens, double gain, const py::object & cancel) {
                engine & eng = self.get();
                return run_interruptible(eng, cancel, [&] { return eng.doubt(tokens, gain); });
            },
            py::arg("tokens"), py::arg("gain"), py::arg("cancel") = py::none())
        .def(
            "logits",
            [](py_engine & self, const tokens_t & tokens, bool inject, double gain, const py::object & cancel) {
                engine & eng = self.get();
                auto rows = run_interruptible(eng, cancel, [&] { return eng.all_logits(tokens, {inject, gain}); });
                return to_numpy(std::move(rows), {(py::ssize_t)tokens.size(), eng.n_vocab()});
            },
            py::arg("tokens"), py::arg("inject"), py::arg("gain"), py::arg("cancel") = py::none())
        .def(
            "layer_outputs",
            [](py_engine & self, const tokens_t & tokens, const std::vector<int32_t> & layers, bool inject, double gain,
               const py::object & cancel) {
                engine & eng = self.get();
                auto rows =
                    run_interruptible(eng, cancel, [&] { return eng.layer_outputs(tokens, layers, {inject, gain}); });
                return to_numpy(
                    std::move(rows), {(py::ssize_t)layers.size(), (py::ssize_t)tokens.size(), eng.n_embd()});
            },
            py::arg("tokens"), py::arg("layers"), py::arg("inject"), py::arg("gain"), py::arg("cancel") = py::none())
        .def(
            "cognitive_attention",
            [](py_engine & self, const tokens_t & tokens, double gain, const py::object & cancel) {
                engine & eng = self.get();
                auto rows = run_interruptible(eng, cancel, [&] { return eng.cognitive_attention(tokens, gain); });
                const wrapper_config & config = eng.meta()->config();
                return to_numpy(
                    std::move(rows), {(py::ssize_t)config.cross_attn_layers.size(), (py::ssize_t)tokens.size(),
                                      config.n_ca_head, config.n_cog});
            },
            py::arg("tokens"), py::arg("gain"), py::arg("cancel") = py::none());
}

} // namespace metadeploy
