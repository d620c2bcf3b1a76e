#include "bindings/bindings.h"
#include "errors.h"

namespace py = pybind11;

namespace metadeploy {

void register_errors(py::module_ & m) {
    // raise the classes of metadeploy.errors themselves, so that one `except` serves both sides
    py::register_exception_translator([](std::exception_ptr p) {
        const auto raise = [](const char * name, const std::exception & e) {
            const py::object type = py::module_::import("metadeploy.errors").attr(name);
            PyErr_SetObject(type.ptr(), to_str(e.what()).ptr());
        };
        try {
            if (p) {
                std::rethrow_exception(p);
            }
        } catch (const sidecar_error & e) {
            raise("SidecarError", e);
        } catch (const model_load_error & e) {
            raise("ModelLoadError", e);
        } catch (const model_mismatch_error & e) {
            raise("ModelMismatchError", e);
        } catch (const context_overflow_error & e) {
            raise("ContextOverflowError", e);
        } catch (const decode_error & e) {
            raise("DecodeError", e);
        } catch (const cancelled_error & e) {
            raise("Cancelled", e);
        } catch (const error & e) {
            raise("Error", e);
        }
    });
    (void)m;
}

} // namespace metadeploy
