#include "bindings/gil.h"

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

#ifndef _WIN32
#include <pthread.h>
#endif

namespace py = pybind11;

namespace metadeploy {

namespace {

enum class phase {
    running,
    draining, // threads take Python's lock again and keep it
    over      // threads that are still without the lock never get it
};

struct thread_count {
    std::mutex mutex;
    std::condition_variable changed;
    int n_outside = 0; // threads without Python's lock, or on their way back to it
    std::atomic<phase> now{phase::running};
    std::thread::id last; // the thread that shuts Python down
    std::atomic<unsigned> generation{0};
};

thread_count & threads() {
    // Never destroyed: threads that stay without the lock outlive all destructors.
    static thread_count * const all = [] {
        auto * made = new thread_count;
#ifndef _WIN32
        pthread_atfork(
            [] { threads().mutex.lock(); }, [] { threads().mutex.unlock(); },
            [] {
                thread_count & child = threads();
                child.n_outside = 0; // the threads of the parent do not exist here
                ++child.generation;
                child.mutex.unlock();
            });
#endif
        return made;
    }();
    return *all;
}

[[noreturn]] void stay_out() {
    for (;;) {
        std::this_thread::sleep_for(std::chrono::hours(1));
    }
}

} // namespace

bool exit_has_begun() {
    return threads().now != phase::running;
}

bool must_end() {
    const thread_count & all = threads();
    return all.now != phase::running && all.last != std::this_thread::get_id();
}

void end_thread() {
    PyErr_SetString(PyExc_SystemExit, "Python is shutting down");
    throw py::error_already_set();
}

without_gil::without_gil() : generation(process_generation()) {
    if (must_end()) { // cannot change while this thread has Python's lock
        end_thread();
    }
    thread_count & all = threads();
    {
        const std::lock_guard<std::mutex> lock(all.mutex);
        ++all.n_outside;
    }
    state = PyEval_SaveThread();
}

without_gil::~without_gil() {
    thread_count & all = threads();
    if (all.now == phase::over && must_end()) {
        stay_out();
    }
    PyEval_RestoreThread(state); // counted until it has the lock, so Python waits for it
    const std::lock_guard<std::mutex> lock(all.mutex);
    if (generation == all.generation) {
        --all.n_outside;
    }
    all.changed.notify_all();
}

with_gil::with_gil() : held(PyGILState_Check() != 0 || !must_end()) {
    if (held) {
        state = PyGILState_Ensure();
    }
}

with_gil::~with_gil() {
    if (held) {
        PyGILState_Release(state);
    }
}

void drain_threads(std::chrono::milliseconds limit) {
    thread_count & all = threads();
    {
        const std::lock_guard<std::mutex> lock(all.mutex);
        all.last = std::this_thread::get_id();
        all.now = phase::draining;
    }
    PyThreadState * const state = PyEval_SaveThread();
    {
        std::unique_lock<std::mutex> lock(all.mutex);
        all.changed.wait_for(lock, limit, [&all] { return all.n_outside <= 0; });
        all.now = phase::over;
    }
    PyEval_RestoreThread(state);
}

unsigned process_generation() {
    return threads().generation;
}

} // namespace metadeploy
