#include "bindings/bindings.h"
#include "bindings/gil.h"
#include "common/log.h"
#include "log.h"

#include "llama.h"

namespace py = pybind11;

namespace metadeploy {

void register_log(py::module_ & m) {
    // what common/ itself prints goes past the log callback; the extension wants none of it
    common_log_set_verbosity_thold(LOG_LEVEL_OUTPUT);
    set_log_sink(nullptr, GGML_LOG_LEVEL_ERROR);

    m.def(
        "set_log_callback",
        [](const py::object & callback, int min_level) {
            if (callback.is_none() || exit_has_begun()) {
                set_log_sink(nullptr, GGML_LOG_LEVEL_ERROR);
                return;
            }
            const auto held = std::shared_ptr<py::object>(new py::object(callback), [](py::object * object) {
                if (const with_gil gil; gil) {
                    delete object;
                } // otherwise it is never deleted
            });
            set_log_sink(
                [held](ggml_log_level level, const std::string & line) {
                    const with_gil gil;
                    if (!gil) {
                        return;
                    }
                    try {
                        (*held)((int)level, to_str(line));
                    } catch (py::error_already_set & e) {
                        e.discard_as_unraisable("metadeploy log callback");
                    }
                },
                (ggml_log_level)min_level);
        },
        py::arg("callback"), py::arg("min_level"),
        "Send the messages of llama.cpp of at least min_level (1 debug, 2 info, 3 warning, 4 error) to\n"
        "callback(level, line); None drops them.");
    m.def(
        "system_info", [] { return std::string(llama_print_system_info()); },
        "The instruction sets and features that llama.cpp was compiled with.");
}

} // namespace metadeploy
