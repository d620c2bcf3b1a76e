# Finds pybind11, which a build by pip brings along; in a plain CMake build it is asked of the Python found above.

find_package(pybind11 2.13 CONFIG QUIET)
if(NOT pybind11_FOUND)
    execute_process(
        COMMAND "${Python_EXECUTABLE}" -m pybind11 --cmakedir
        OUTPUT_VARIABLE pybind11_hint OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
    find_package(pybind11 2.13 CONFIG QUIET HINTS "${pybind11_hint}")
endif()
if(NOT pybind11_FOUND)
    message(FATAL_ERROR "pybind11 was not found, expected version 2.13 or newer.\n"
        "  Install it:  ${Python_EXECUTABLE} -m pip install pybind11\n"
        "  or build without the Python extension: -DMETADEPLOY_BUILD_PYTHON=OFF")
endif()
