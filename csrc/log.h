// Where the messages of ggml and llama.cpp go: to one sink, silent by default.
#pragma once

#include "ggml.h"

#include <functional>
#include <string>

namespace metadeploy {

// receives whole lines without their line feed; may be called from any thread
using log_sink = std::function<void(ggml_log_level level, const std::string & line)>;

// Routes all messages of at least the given level to sink (none: drop them). Process-wide.
void set_log_sink(log_sink sink, ggml_log_level min_level);

// While it lives, stores the first error that this thread logs. llama.cpp says only in its log why a file does not
// load, and the errors after the first one are consequences ("failed to load model").
class log_capture {
public:
    log_capture();
    ~log_capture();
    log_capture(const log_capture &) = delete;
    log_capture & operator=(const log_capture &) = delete;

    // without the name of the function that logged it
    std::string first_line(const std::string & fallback) const;

private:
    std::string * outer;
    std::string captured;
};

} // namespace metadeploy
