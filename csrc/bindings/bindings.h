// One register_* function for each concern; module.cpp calls them all.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <utility>
#include <vector>

namespace metadeploy {

void register_errors(pybind11::module_ & m);
void register_log(pybind11::module_ & m);
void register_sidecar(pybind11::module_ & m);
void register_engine(pybind11::module_ & m);
void register_generation(pybind11::module_ & m);

// hands the memory over to NumPy without a copy
inline pybind11::array_t<float> to_numpy(std::vector<float> data, std::vector<pybind11::ssize_t> shape) {
    auto owned = std::make_unique<std::vector<float>>(std::move(data));
    const float * values = owned->data();
    const pybind11::capsule owner(owned.release(), [](void * p) { delete static_cast<std::vector<float> *>(p); });
    return pybind11::array_t<float>(std::move(shape), values, owner);
}

} // namespace metadeploy
