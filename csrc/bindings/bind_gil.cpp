#include "bindings/bindings.h"
#include "bindings/gil.h"

namespace py = pybind11;

namespace metadeploy {

void register_gil(py::module_ & m) {
    m.def(
        "drain_threads", [](int limit_ms) { drain_threads(std::chrono::milliseconds(limit_ms)); }, py::arg("limit_ms"),
        "Call this when Python shuts down: stop the computations of other threads and wait for them, up to this "
        "limit.");
    m.def("process_generation", &process_generation, "A number that changes in the child of each fork.");
    m.def("exit_has_begun", &exit_has_begun, "Whether drain_threads was called.");
}

} // namespace metadeploy
