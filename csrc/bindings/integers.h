// Converts Python's integers, which may be of any size.
#pragma once

#include "errors.h"

#include <pybind11/pybind11.h>

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

namespace metadeploy {

// Throws option_error that names the option if the number is out of range, and TypeError if it is not an integer.
inline int64_t to_integer(const char * name, pybind11::handle value, int64_t least, int64_t most) {
    namespace py = pybind11;
    const auto number = py::reinterpret_steal<py::object>(PyNumber_Index(value.ptr()));
    if (!number) {
        PyErr_Clear();
        throw py::type_error(
            std::string(name) + " is of type " + Py_TYPE(value.ptr())->tp_name + ", expected a whole number");
    }
    int overflow = 0;
    const long long found = PyLong_AsLongLongAndOverflow(number.ptr(), &overflow);
    if (overflow != 0 || found < least || found > most) {
        throw option_error(
            std::string(name) + " is " + py::cast<std::string>(py::str(number)) + ", expected " +
            std::to_string(least) + " to " + std::to_string(most));
    }
    return found;
}

// Converts several integers of 32 bits each, such as token ids.
inline std::vector<int32_t> to_integers(const char * name, const pybind11::iterable & values) {
    std::vector<int32_t> found;
    for (const pybind11::handle value : values) {
        found.push_back(
            (int32_t)to_integer(name, value, std::numeric_limits<int32_t>::min(), std::numeric_limits<int32_t>::max()));
    }
    return found;
}

// defines a field that takes integers from least to most
template <typename Class, typename T>
void def_integer(
    pybind11::class_<Class> & to,
    const char * name,
    T Class::* field,
    int64_t least = std::numeric_limits<T>::min(),
    int64_t most = std::numeric_limits<T>::max()) {
    to.def_property(
        name, [field](const Class & self) { return self.*field; },
        [name, field, least, most](Class & self, const pybind11::object & value) {
            self.*field = (T)to_integer(name, value, least, most);
        });
}

} // namespace metadeploy
