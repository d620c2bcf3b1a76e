// Limits on a chat template: it is a program, and it may come from an untrusted source.
#pragma once

#include "errors.h"

#include <cstddef>
#include <cstdint>
#include <functional>

namespace metadeploy {

// a template exceeds its limits
struct template_limit_error : error {
    using error::error;
};

// Limits the templates of this thread while the object lives: their steps, memory and nesting. These are counted, not
// timed, so that a template passes or fails alike on every machine. llama.cpp's template engine calls spend() at each
// step, through the hook of vendor/patches/0004-template-bounds.patch. A thread must not have two objects at a time.
class template_limits {
public:
    // units: bytes produced, or nanoseconds on a typical machine. cancel: called every few milliseconds; may be empty.
    explicit template_limits(int64_t units, std::function<bool()> cancel = nullptr);
    ~template_limits();
    template_limits(const template_limits &) = delete;
    template_limits & operator=(const template_limits &) = delete;

    // Throws template_limit_error if a limit was exceeded, and cancelled_error if cancel returned true, even if the
    // template's own exception was caught.
    void check() const;

private:
    static void spend(size_t n);
    [[noreturn]] void stop(const char * why);

    int64_t left;
    int64_t next_question; // the value of left at which cancel is called next
    const std::function<bool()> cancel;
    const uintptr_t stack; // the address at which it begins
    const char * reason = nullptr;
    bool cancelled = false;
};

} // namespace metadeploy
