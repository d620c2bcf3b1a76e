#include "bindings/bindings.h"
#include "bindings/gil.h"
#include "bindings/integers.h"
#include "bindings/interrupt.h"
#include "cpu_threads.h"
#include "inspect/inspection.h"
#include "inspect/quantize.h"
#include "text/refusal.h"

#include "ggml-threading.h"
#include "llama-cparams.h"

#include <map>
#include <mutex>

#ifndef _WIN32
#include <pthread.h>
#endif

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

ggml_type parse_cache_type(const std::string & name, const char * option) {
    for (const ggml_type type :
         {GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_BF16, GGML_TYPE_Q8_0, GGML_TYPE_Q5_1, GGML_TYPE_Q5_0, GGML_TYPE_Q4_1,
          GGML_TYPE_Q4_0, GGML_TYPE_IQ4_NL}) {
        if (name == ggml_type_name(type)) {
            return type;
        }
    }
    throw py::value_error(
        std::string(option) + ": cache type is '" + name +
        "', expected f32, f16, bf16, q8_0, q5_1, q5_0, q4_1, q4_0 or iq4_nl");
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
    params.cache_type_k = parse_cache_type(options.type_k, "type_k");
    params.cache_type_v = parse_cache_type(options.type_v, "type_v");
    params.flash_attn_type = parse_flash_attn(options.flash_attn);
    params.fit_params = false; // callers get the sizes that they ask for, or an error
    params.warmup = false;
    postprocess_cpu_params(params.cpuparams, nullptr);
    postprocess_cpu_params(params.cpuparams_batch, &params.cpuparams);
    return params;
}

constexpr char FORKED[] =
    "the model was loaded before fork(), and its compute threads do not exist in this process: load it here, or start "
    "processes by spawn";

using role_and_content = std::vector<std::pair<std::string, std::string>>;

std::vector<chat_message> to_messages(const role_and_content & pairs) {
    std::vector<chat_message> messages;
    for (const auto & [role, content] : pairs) {
        messages.push_back({role, content});
    }
    return messages;
}

void init_backend_once() {
    static std::once_flag flag;
    std::call_once(flag, [] {
        llama_backend_init();
#ifndef _WIN32
        // In a forked child, ggml's lock must not be held by a thread that does not exist there.
        pthread_atfork(ggml_critical_section_start, ggml_critical_section_end, ggml_critical_section_end);
#endif
    });
}

// GCC's OpenMP keeps a pool of threads. In a forked child, it waits for them forever.
void check_openmp(const common_params & params) {
    static const unsigned first = process_generation(); // the process of the first engine, perhaps a parent
    const bool is_alone = params.cpuparams.n_threads == 1 && params.cpuparams_batch.n_threads == 1;
    const std::string features = llama_print_system_info();
    if (first != process_generation() && !is_alone && features.find("OPENMP = 1") != std::string::npos) {
        throw error(
            "this build computes with OpenMP, whose threads do not survive the fork() of a process that had a model: "
            "start processes by spawn, use n_threads=1, or build with GGML_OPENMP=OFF");
    }
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
        check_openmp(params);
        const without_gil release;
        impl = std::make_unique<engine>(params, limits);
    }

    ~py_engine() { leak_if_forked(); }
    py_engine(const py_engine &) = delete;
    py_engine & operator=(const py_engine &) = delete;

    engine & get() {
        if (is_forked()) {
            throw error(FORKED);
        }
        if (!impl) {
            throw error("the model is closed");
        }
        return *impl;
    }

    void close() {
        leak_if_forked();
        if (impl) {
            const without_gil release;
            impl.reset();
        }
    }

    bool closed() const { return !impl; }

private:
    bool is_forked() const { return generation != process_generation(); }

    // The engine's threads do not exist in a forked child, and destroying the engine would wait for them forever. So
    // the child never destroys it. Its pages stay shared with the parent until the child ends.
    void leak_if_forked() {
        if (is_forked()) {
            (void)impl.release();
        }
    }

    std::unique_ptr<engine> impl;
    const unsigned generation = process_generation();
};

} // namespace

engine & engine_of(const py::object & object) {
    return object.cast<py_engine &>().get();
}

std::vector<llama_token> to_tokens(const py::iterable & token_ids) {
    return to_integers("token", token_ids);
}

void register_engine(py::module_ & m) {
    m.attr("FORKED") = FORKED; // the error message of an engine from a parent process
    py::class_<engine_options> options(
        m, "EngineOptions", "How to load a base model; the fields of MetaLlama's constructor.");
    options.def(py::init<>())
        .def_readwrite("model", &engine_options::model)
        .def_readwrite("chat_template", &engine_options::chat_template)
        .def_readwrite("type_k", &engine_options::type_k)
        .def_readwrite("type_v", &engine_options::type_v)
        .def_readwrite("flash_attn", &engine_options::flash_attn);
    def_integer(options, "n_ctx", &engine_options::n_ctx, 0);
    def_integer(options, "n_parallel", &engine_options::n_parallel, 1, LLAMA_MAX_SEQ);
    def_integer(options, "n_batch", &engine_options::n_batch, 1);
    def_integer(options, "n_ubatch", &engine_options::n_ubatch, 1);
    def_integer(options, "n_threads", &engine_options::n_threads, -1, GGML_MAX_N_THREADS);
    def_integer(options, "n_threads_batch", &engine_options::n_threads_batch, -1, GGML_MAX_N_THREADS);
    def_integer(options, "n_gpu_layers", &engine_options::n_gpu_layers);
    def_integer(options, "hidden_cache_mib", &engine_options::hidden_cache_mib, 0);
    def_integer(options, "prefix_cache_mib", &engine_options::prefix_cache_mib, 0);

    m.def(
        "quantize",
        [](const std::string & src, const std::string & dst, const std::string & file_type,
           const py::object & n_threads) {
            init_backend_once();
            const auto n = (int)to_integer("n_threads", n_threads, 0, GGML_MAX_N_THREADS);
            const without_gil release;
            quantize_model(src, dst, file_type, n);
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
        "Shortest time between two checks of a running call for signals and its cancel callback; 0: check between any\n"
        "two nodes of a graph. Returns the previous value, 50 at first.");

    m.def(
        "refusal_tokens",
        [](const std::string & model, const std::string & text, const std::string & answer_suffix,
           const std::string & chat_template_kwargs) {
            init_backend_once();
            sidecar source;
            source.config.answer_suffix = answer_suffix;
            source.config.chat_template_kwargs = chat_template_kwargs;
            const without_gil release;
            return refusal_tokens(model, prompt_settings::of(source), text);
        },
        py::arg("model"), py::arg("text"), py::arg("answer_suffix") = "", py::arg("chat_template_kwargs") = "",
        "Tokens of a refusal at the start of an answer, by the vocabulary and chat template of a base GGUF.");

    py::class_<py_engine>(m, "Engine", "A base model with its context and, beside it, a wrapper. Not thread-safe.")
        .def(py::init<const engine_options &>(), py::arg("options"))
        .def("close", &py_engine::close)
        .def_property_readonly("closed", &py_engine::closed)
        .def(
            "attach",
            [](py_engine & self, const std::string & path, bool folded, const std::string & refusal_text) {
                engine & eng = self.get();
                const without_gil release;
                eng.attach(path, folded, refusal_text);
            },
            py::arg("sidecar"), py::arg("folded") = true, py::arg("refusal_text") = "")
        .def("detach", [](py_engine & self) { self.get().detach(); })
        .def(
            "tap_answers",
            [](py_engine & self, const std::vector<int32_t> & prompt, const std::vector<int32_t> & answer) {
                engine & eng = self.get();
                const without_gil release;
                eng.tap_answers({prompt, answer});
            },
            py::arg("prompt_layers"), py::arg("answer_layers"),
            "Gather what a verdict reads of answers, at these layers; empty lists: stop.")
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
            [](py_engine & self, const py::iterable & token_ids, bool special) {
                return py::bytes(self.get().detokenize(to_tokens(token_ids), special));
            },
            py::arg("tokens"), py::arg("special"))
        .def(
            "apply_chat_template",
            [](py_engine & self, const role_and_content & messages) {
                engine & eng = self.get();
                const std::vector<chat_message> list = to_messages(messages);
                return to_str(run_interruptible(eng, py::none(), [&] { return eng.apply_chat_template(list); }));
            },
            py::arg("messages"))
        .def(
            "tokenize_chat",
            [](py_engine & self, const role_and_content & messages) {
                engine & eng = self.get();
                const std::vector<chat_message> list = to_messages(messages);
                return run_interruptible(eng, py::none(), [&] { return eng.tokenize_chat(list); });
            },
            py::arg("messages"))
        .def(
            "activations",
            [](py_engine & self, const py::iterable & token_ids, const py::object & cancel) {
                engine & eng = self.get();
                const std::vector<llama_token> tokens = to_tokens(token_ids);
                auto rows = run_interruptible(eng, cancel, [&] { return compute_activations(eng, tokens); });
                return to_numpy(
                    std::move(rows), {(py::ssize_t)eng.meta()->config().target_layers.size(), eng.n_embd()});
            },
            py::arg("tokens"), py::arg("cancel") = py::none())
        .def(
            "cognitive_tokens",
            [](py_engine & self, const py::iterable & token_ids, const py::object & cancel) {
                engine & eng = self.get();
                const std::vector<llama_token> tokens = to_tokens(token_ids);
                auto rows = run_interruptible(eng, cancel, [&] { return compute_cognitive_tokens(eng, tokens); });
                return to_numpy(std::move(rows), {eng.meta()->config().n_cog, eng.n_embd()});
            },
            py::arg("tokens"), py::arg("cancel") = py::none())
        .def(
            "doubt",
            [](py_engine & self, const py::iterable & token_ids, double gain, const py::object & cancel) {
                engine & eng = self.get();
                const std::vector<llama_token> tokens = to_tokens(token_ids);
                return run_interruptible(eng, cancel, [&] { return compute_doubt(eng, tokens, gain); });
            },
            py::arg("tokens"), py::arg("gain"), py::arg("cancel") = py::none())
        .def(
            "logits",
            [](py_engine & self, const py::iterable & token_ids, bool inject, double gain, const py::object & cancel) {
                engine & eng = self.get();
                const std::vector<llama_token> tokens = to_tokens(token_ids);
                auto rows = run_interruptible(eng, cancel, [&] { return compute_logits(eng, tokens, {inject, gain}); });
                return to_numpy(std::move(rows), {(py::ssize_t)tokens.size(), eng.n_vocab()});
            },
            py::arg("tokens"), py::arg("inject"), py::arg("gain"), py::arg("cancel") = py::none())
        .def(
            "layer_outputs",
            [](py_engine & self, const py::iterable & token_ids, const py::iterable & layer_numbers, bool inject,
               double gain, const py::object & cancel) {
                engine & eng = self.get();
                const std::vector<llama_token> tokens = to_tokens(token_ids);
                const std::vector<int32_t> layers = to_integers("layer", layer_numbers);
                auto rows = run_interruptible(
                    eng, cancel, [&] { return compute_layer_outputs(eng, tokens, layers, {inject, gain}); });
                return to_numpy(
                    std::move(rows), {(py::ssize_t)layers.size(), (py::ssize_t)tokens.size(), eng.n_embd()});
            },
            py::arg("tokens"), py::arg("layers"), py::arg("inject"), py::arg("gain"), py::arg("cancel") = py::none())
        .def(
            "cognitive_attention",
            [](py_engine & self, const py::iterable & token_ids, double gain, const py::object & cancel) {
                engine & eng = self.get();
                const std::vector<llama_token> tokens = to_tokens(token_ids);
                auto rows = run_interruptible(eng, cancel, [&] { return compute_attention(eng, tokens, gain); });
                const wrapper_config & config = eng.meta()->config();
                return to_numpy(
                    std::move(rows), {(py::ssize_t)config.cross_attn_layers.size(), (py::ssize_t)tokens.size(),
                                      config.n_ca_head, config.n_cog});
            },
            py::arg("tokens"), py::arg("gain"), py::arg("cancel") = py::none());
}

} // namespace metadeploy
