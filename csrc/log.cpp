#include "log.h"

#include "llama.h"

#include <atomic>
#include <memory>
#include <mutex>

#ifndef _WIN32
#include <pthread.h>
#endif

namespace metadeploy {

namespace {

std::mutex sink_mutex;
std::shared_ptr<const log_sink> current_sink;
std::atomic<int> sink_level{GGML_LOG_LEVEL_ERROR + 1};

thread_local std::string * capture = nullptr;
thread_local std::string partial_line;
thread_local ggml_log_level partial_level = GGML_LOG_LEVEL_INFO;

void emit(ggml_log_level level, const std::string & line) {
    if (line.empty()) {
        return;
    }
    if (capture && capture->empty() && level == GGML_LOG_LEVEL_ERROR) {
        *capture = line;
    }
    if ((int)level >= sink_level.load()) {
        std::shared_ptr<const log_sink> sink;
        {
            // copied out, so that a sink that waits (for Python's lock, say) holds nothing of ours
            const std::lock_guard<std::mutex> lock(sink_mutex);
            sink = current_sink;
        }
        if (sink && *sink) {
            (*sink)(level, line);
        }
    }
}

void on_log(ggml_log_level level, const char * text, void *) {
    if (level != GGML_LOG_LEVEL_CONT) {
        partial_level = level;
    }
    for (; *text; ++text) {
        if (*text == '\n') {
            emit(partial_level, partial_line);
            partial_line.clear();
        } else {
            partial_line += *text;
        }
    }
}

} // namespace

void set_log_sink(log_sink sink, ggml_log_level min_level) {
#ifndef _WIN32
    // In a forked child, this must not be held by a thread that does not exist there.
    static const int registered =
        pthread_atfork([] { sink_mutex.lock(); }, [] { sink_mutex.unlock(); }, [] { sink_mutex.unlock(); });
    (void)registered;
#endif
    {
        const std::lock_guard<std::mutex> lock(sink_mutex);
        current_sink = sink ? std::make_shared<const log_sink>(std::move(sink)) : nullptr;
        sink_level = current_sink ? (int)min_level : GGML_LOG_LEVEL_ERROR + 1;
    }
    // once, because other threads read the callback without a lock
    static const bool routed = (llama_log_set(on_log, nullptr), true);
    (void)routed;
}

log_capture::log_capture() : outer(capture) {
    capture = &captured;
}

log_capture::~log_capture() {
    capture = outer;
}

std::string log_capture::first_line(const std::string & fallback) const {
    if (captured.empty()) {
        return fallback;
    }
    const size_t colon = captured.find(": ");
    return colon == std::string::npos ? captured : captured.substr(colon + 2);
}

} // namespace metadeploy
