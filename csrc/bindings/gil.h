// Python's lock in a process that may exit or fork while other threads compute.
//
// A thread that asks for Python's lock during the interpreter's shutdown does not get it. Before Python 3.14, Python
// ends such a thread by unwinding frames that must not be unwound, and the process aborts. So when Python begins to
// shut down, drain_threads() makes all threads that compute without the lock take it again and raise SystemExit, which
// ends a thread silently. Threads that are too late block until the process ends.
#pragma once

#include <pybind11/pybind11.h>

#include <chrono>

namespace metadeploy {

// Replaces py::gil_scoped_release. Throws SystemExit if Python is shutting down, except in the thread that shuts it
// down.
class without_gil {
public:
    without_gil();
    ~without_gil();
    without_gil(const without_gil &) = delete;
    without_gil & operator=(const without_gil &) = delete;

private:
    PyThreadState * state;
    const unsigned generation;
};

// Replaces py::gil_scoped_acquire, for threads that compute under a without_gil and for threads that have the lock.
class with_gil {
public:
    with_gil();
    ~with_gil();
    with_gil(const with_gil &) = delete;
    with_gil & operator=(const with_gil &) = delete;

    explicit operator bool() const { return held; } // false: Python is shutting down and must not be used

private:
    const bool held;
    PyGILState_STATE state = PyGILState_UNLOCKED;
};

// Whether Python has begun to shut down.
bool exit_has_begun();

// Whether this thread must stop computing, because Python is shutting down.
bool must_end();

// Throws SystemExit. Needs Python's lock.
[[noreturn]] void end_thread();

// Call this with Python's lock when Python begins to shut down. It tells computing threads to stop and waits for them
// up to this limit.
void drain_threads(std::chrono::milliseconds limit);

// Returns a number that changes in the child of each fork.
unsigned process_generation();

} // namespace metadeploy
