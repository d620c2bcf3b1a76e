#include "bindings/bindings.h"
#include "bindings/interrupt.h"
#include "runtime/generation.h"

namespace py = pybind11;

namespace metadeploy {

engine & engine_of(const py::object & object);

namespace {

class py_generation {
public:
    py_generation(
        py::object engine_,
        const std::vector<llama_token> & prompt,
        const generation_params & params,
        py::object cancel_)
        : engine_object(std::move(engine_)), cancel(std::move(cancel_)) {
        engine & eng = engine_of(engine_object);
        impl = run_interruptible(eng, cancel, [&] { return std::make_unique<generation>(eng, prompt, params); });
    }

    // (text, tokens, logprobs, more)
    py::tuple step() {
        engine & eng = engine_of(engine_object);
        chunk out;
        const bool more = run_interruptible(eng, cancel, [&] { return impl->step(out); });
        py::list logprobs;
        for (const token_logprob & item : out.logprobs) {
            py::list top;
            for (const auto & [token, logprob] : item.top) {
                top.append(py::make_tuple(token, to_str(eng.piece(token)), logprob));
            }
            logprobs.append(py::make_tuple(item.token, to_str(item.piece), item.logprob, top));
        }
        return py::make_tuple(to_str(out.text), out.tokens, logprobs, more);
    }

    const generation & get() const { return *impl; }

private:
    py::object engine_object; // keeps the engine alive
    py::object cancel;
    std::unique_ptr<generation> impl;
};

} // namespace

void register_generation(py::module_ & m) {
    py::class_<generation_params>(m, "GenerationParams", "How to answer; the fields of MetaLlama.generate.")
        .def(py::init<>())
        .def_readwrite("max_tokens", &generation_params::max_tokens)
        .def_readwrite("stop", &generation_params::stop)
        .def_readwrite("n_logprobs", &generation_params::n_logprobs)
        .def_readwrite("doubt_threshold", &generation_params::doubt_threshold)
        .def_property(
            "inject", [](const generation_params & p) { return p.inject.on; },
            [](generation_params & p, bool on) { p.inject.on = on; })
        .def_property(
            "gain", [](const generation_params & p) { return p.inject.gain; },
            [](generation_params & p, float gain) { p.inject.gain = gain; })
        .def_property(
            "temperature", [](const generation_params & p) { return p.sampling.temp; },
            [](generation_params & p, float value) { p.sampling.temp = value; })
        .def_property(
            "top_k", [](const generation_params & p) { return p.sampling.top_k; },
            [](generation_params & p, int32_t value) { p.sampling.top_k = value; })
        .def_property(
            "top_p", [](const generation_params & p) { return p.sampling.top_p; },
            [](generation_params & p, float value) { p.sampling.top_p = value; })
        .def_property(
            "min_p", [](const generation_params & p) { return p.sampling.min_p; },
            [](generation_params & p, float value) { p.sampling.min_p = value; })
        .def_property(
            "repeat_penalty", [](const generation_params & p) { return p.sampling.penalty_repeat; },
            [](generation_params & p, float value) { p.sampling.penalty_repeat = value; })
        .def_property(
            "seed", [](const generation_params & p) { return p.sampling.seed; },
            [](generation_params & p, uint32_t value) { p.sampling.seed = value; });

    py::class_<timings>(m, "Timings", "Where the time of an answer went, in milliseconds.")
        .def_readonly("pass1_ms", &timings::pass1_ms)
        .def_readonly("encode_ms", &timings::encode_ms)
        .def_readonly("pass2_ms", &timings::pass2_ms)
        .def_readonly("decode_ms", &timings::decode_ms)
        .def_property_readonly("pass2", [](const timings & self) { return pass2_kind_name(self.pass2); })
        .def_readonly("hidden_bytes", &timings::hidden_bytes)
        .def_readonly("n_prompt", &timings::n_prompt)
        .def_readonly("n_reused", &timings::n_reused)
        .def_readonly("n_generated", &timings::n_generated);

    py::class_<py_generation>(m, "Generation", "One answer, token by token; the constructor runs both passes.")
        .def(
            py::init<py::object, const std::vector<llama_token> &, const generation_params &, py::object>(),
            py::arg("engine"), py::arg("prompt"), py::arg("params"), py::arg("cancel") = py::none())
        .def(
            "step", &py_generation::step,
            "The next token: (text, token ids, [(id, text, logprob, [(id, text, logprob)])], more to come).")
        .def_property_readonly(
            "finish_reason", [](const py_generation & self) { return finish_reason_name(self.get().finish()); })
        .def_property_readonly("text", [](const py_generation & self) { return to_str(self.get().text()); })
        .def_property_readonly("tokens", [](const py_generation & self) { return self.get().tokens(); })
        .def_property_readonly("doubt", [](const py_generation & self) { return self.get().doubt(); })
        .def_property_readonly("abstained", [](const py_generation & self) { return self.get().abstained(); })
        .def_property_readonly("timings", [](const py_generation & self) { return self.get().times(); });
}

} // namespace metadeploy
