#include "bindings/bindings.h"
#include "errors.h"

namespace py = pybind11;

namespace metadeploy {

namespace {

// the classes of metadeploy.errors themselves, so that one `except` serves both sides
const char * class_of(const error & e) {
    if (dynamic_cast<const option_error *>(&e)) {
        return "OptionError";
    }
    if (dynamic_cast<const sidecar_error *>(&e)) {
        return "SidecarError";
    }
    if (dynamic_cast<const model_load_error *>(&e)) {
        return "ModelLoadError";
    }
    if (dynamic_cast<const model_mismatch_error *>(&e)) {
        return "ModelMismatchError";
    }
    if (dynamic_cast<const context_overflow_error *>(&e)) {
        return "ContextOverflowError";
    }
    if (dynamic_cast<const decode_error *>(&e)) {
        return "DecodeError";
    }
    if (dynamic_cast<const cancelled_error *>(&e)) {
        return "Cancelled";
    }
    return "Error";
}

py::object make(const error & e) {
    return py::module_::import("metadeploy.errors").attr(class_of(e))(to_str(e.what()));
}

} // namespace

py::object error_object(const std::exception_ptr & fault) {
    try {
        std::rethrow_exception(fault);
    } catch (const error & e) {
        return make(e);
    }
}

void register_errors(py::module_ & m) {
    py::register_exception_translator([](std::exception_ptr p) {
        try {
            if (p) {
                std::rethrow_exception(p);
            }
        } catch (const error & e) {
            const py::object made = make(e);
            PyErr_SetObject(py::type::of(made).ptr(), made.ptr());
        }
    });
    (void)m;
}

} // namespace metadeploy
