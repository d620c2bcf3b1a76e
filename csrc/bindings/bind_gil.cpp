#include "bindings/bindings.h"
#include "bindings/gil.h"

namespace py = pybind11;

namespace metadeploy {

void register_gil(py::module_ & m) {
    m.def(
        "drain_threads", [](int limit_ms) { drain_threads(std::chrono::milliseconds(limit_ms)); }, py::arg("limit_ms"),
        "Python is shutting down: end what other threads compute, and wait for them, but not longer than this.");
    m.def("process_generation", &process_generation, "Another number after a fork, in the child.");
    m.def("exit_has_begun", &exit_has_begun, "Whether drain_threads was called.");
}

} // namespace metadeploy
