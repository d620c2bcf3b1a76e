// Python's lock in a process that may end, or be forked, while other threads compute.
//
// A thread that asks for Python's lock once the interpreter is going down does not get it: before Python 3.14 it is
// ended on the spot, by unwinding frames that must not be unwound, and the process aborts. So when Python begins to
// shut down, drain_threads() has all that compute without its lock come back, with SystemExit, which ends a thread
// silently. Those that do not come in time stay where they are for ever, which is as long as the process lives.
#pragma once

#include <pybind11/pybind11.h>

#include <chrono>

namespace metadeploy {

// In place of py::gil_scoped_release. Throws SystemExit where Python is shutting down, but for the thread that does it.
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

// In place of py::gil_scoped_acquire, for threads that compute under a without_gil and for those that have the lock.
class with_gil {
public:
    with_gil();
    ~with_gil();
    with_gil(const with_gil &) = delete;
    with_gil & operator=(const with_gil &) = delete;

    explicit operator bool() const { return held; } // false: Python is shutting down, and must not be used

private:
    const bool held;
    PyGILState_STATE state = PyGILState_UNLOCKED;
};

// Python has begun to shut down.
bool exit_has_begun();

// What this thread computes is to end, for Python is shutting down.
bool must_end();

// Throws SystemExit. Needs Python's lock.
[[noreturn]] void end_thread();

// To be called with Python's lock when Python begins to shut down: what computes is to end, and is waited for, but not
// longer than this.
void drain_threads(std::chrono::milliseconds limit);

// Another number after a fork, in the child.
unsigned process_generation();

} // namespace metadeploy
