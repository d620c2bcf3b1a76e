// One register_* function for each concern; module.cpp calls them all.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <exception>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace metadeploy {

void register_gil(pybind11::module_ & m);
void register_errors(pybind11::module_ & m);
void register_log(pybind11::module_ & m);
void register_sidecar(pybind11::module_ & m);
void register_engine(pybind11::module_ & m);
void register_generation(pybind11::module_ & m);
void register_microbench(pybind11::module_ & m);
void register_inspect(pybind11::module_ & m);

// of a Python Engine; throws error if that is closed
class engine;
engine & engine_of(const pybind11::object & object);

// Converts integers of any size to token ids. Throws option_error for a number that cannot be a token id.
std::vector<int32_t> to_tokens(const pybind11::iterable & token_ids);

// an error of ours as the Python exception that it is raised as
pybind11::object error_object(const std::exception_ptr & fault);

// text of a model or a file may hold bytes that are no UTF-8
inline pybind11::str to_str(const std::string & text) {
    return pybind11::reinterpret_steal<pybind11::str>(
        PyUnicode_DecodeUTF8(text.data(), (pybind11::ssize_t)text.size(), "replace"));
}

// hands the memory over to NumPy without a copy
inline pybind11::array_t<float> to_numpy(std::vector<float> data, std::vector<pybind11::ssize_t> shape) {
    auto owned = std::make_unique<std::vector<float>>(std::move(data));
    const float * values = owned->data();
    const pybind11::capsule owner(owned.release(), [](void * p) { delete static_cast<std::vector<float> *>(p); });
    return pybind11::array_t<float>(std::move(shape), values, owner);
}

} // namespace metadeploy
