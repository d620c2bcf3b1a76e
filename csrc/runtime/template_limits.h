// Bounds on a chat template: it is a program, and it comes with a model from elsewhere.
#pragma once

#include "errors.h"

#include <cstddef>
#include <cstdint>
#include <functional>

namespace metadeploy {

// a template takes more than it may
struct template_limit_error : error {
    using error::error;
};

// Bounds what this thread's templates take while it lives: steps, memory and nesting. They are counted, not timed, so
// that a template passes or fails on every machine alike. llama.cpp's template engine asks at each step, through the
// hook of vendor/patches/0004-template-bounds.patch. Not for two at a time in one thread.
class template_limits {
public:
    // units: bytes that are made, or nanoseconds of a usual machine. cancel: asked every few milliseconds; may be
    // empty.
    explicit template_limits(int64_t units, std::function<bool()> cancel = nullptr);
    ~template_limits();
    template_limits(const template_limits &) = delete;
    template_limits & operator=(const template_limits &) = delete;

    // Throws template_limit_error where a bound was exceeded and cancelled_error where cancel said so, whatever became
    // of the exception that ended the template.
    void check() const;

private:
    static void spend(size_t n);
    [[noreturn]] void stop(const char * why);

    int64_t left;
    int64_t next_question; // what is left when cancel is asked again
    const std::function<bool()> cancel;
    const uintptr_t stack; // where it begins
    const char * reason = nullptr;
    bool cancelled = false;
};

} // namespace metadeploy
