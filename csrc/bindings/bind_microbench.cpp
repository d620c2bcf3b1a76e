#include "bindings/bindings.h"
#include "bindings/interrupt.h"
#include "inspect/microbench.h"

namespace py = pybind11;

namespace metadeploy {

void register_microbench(py::module_ & m) {
    m.def(
        "prefill",
        [](const py::object & engine, size_t sequence, const py::iterable & token_ids, bool inject, float gain) {
            auto & eng = engine_of(engine);
            const std::vector<llama_token> tokens = to_tokens(token_ids);
            return run_interruptible(eng, py::none(), [&] { return prefill(eng, sequence, tokens, {inject, gain}); });
        },
        py::arg("engine"), py::arg("sequence"), py::arg("tokens"), py::arg("inject"), py::arg("gain") = 1.0f,
        "Both passes over a prompt, or the clean one alone: what they took, and the likeliest next token.");
    m.def(
        "decode",
        [](const py::object & engine, const py::iterable & token_ids, bool inject, float gain) {
            auto & eng = engine_of(engine);
            const std::vector<llama_token> tokens = to_tokens(token_ids);
            return run_interruptible(eng, py::none(), [&] { return decode(eng, tokens, {inject, gain}); });
        },
        py::arg("engine"), py::arg("tokens"), py::arg("inject"), py::arg("gain") = 1.0f,
        "One batch with a token for each of the first sequences: milliseconds, and the likeliest token after each.");
}

} // namespace metadeploy
