// Long calls without Python's lock that still notice Ctrl-C and the caller's cancel callback.
#pragma once

#include "bindings/gil.h"
#include "errors.h"
#include "model/engine.h"

#include <chrono>
#include <exception>
#include <utility>

namespace metadeploy {

// Shortest time between two checks, for which a running graph takes Python's lock. 0, which tests use, checks between
// any two nodes.
inline std::chrono::duration<double, std::milli> cancel_interval{50.0};

// Runs f without the lock. If a signal handler or cancel (a callable, or None) raises, this throws that exception. If
// cancel returns true, it throws cancelled_error. If Python shuts down meanwhile, it throws SystemExit.
template <typename F>
auto run_interruptible(engine & eng, const pybind11::object & cancel, F && f) {
    namespace py = pybind11;
    std::exception_ptr raised;
    bool stop = false;
    auto next_check = std::chrono::steady_clock::now();
    struct reset {
        engine & eng;
        ~reset() { eng.cancel = nullptr; }
    } const guard{eng};
    eng.cancel = [&]() -> bool {
        const auto now = std::chrono::steady_clock::now();
        if (stop || must_end()) {
            return true;
        }
        if (now < next_check) {
            return false;
        }
        next_check = now + std::chrono::duration_cast<std::chrono::steady_clock::duration>(cancel_interval);
        const with_gil gil;
        if (!gil) {
            return true;
        }
        try {
            if (PyErr_CheckSignals() != 0) {
                throw py::error_already_set();
            }
            stop = !cancel.is_none() && cancel().cast<bool>();
        } catch (...) {
            raised = std::current_exception();
            stop = true;
        }
        return stop;
    };
    try {
        const without_gil release;
        return f();
    } catch (const cancelled_error &) {
        if (must_end()) {
            end_thread();
        }
        if (raised) {
            std::rethrow_exception(raised);
        }
        throw;
    }
}

} // namespace metadeploy
