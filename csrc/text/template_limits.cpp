#include "text/template_limits.h"

#include "jinja/string.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

namespace metadeploy {

namespace {

// Enough for a few hundred levels of nesting; threads have 8 MiB. Deleting a parse tree takes less stack than parsing.
constexpr uintptr_t MAX_STACK_BYTES = 1 << 20;
constexpr int64_t UNITS_BETWEEN_QUESTIONS = 5000000;

thread_local template_limits * active = nullptr;

uintptr_t stack_position() {
    return (uintptr_t)__builtin_frame_address(0);
}

} // namespace

template_limits::template_limits(int64_t units, std::function<bool()> cancel)
    : left(units), next_question(units - UNITS_BETWEEN_QUESTIONS), cancel(std::move(cancel)), stack(stack_position()) {
    active = this;
    jinja::spend_hook = &template_limits::spend;
}

template_limits::~template_limits() {
    jinja::spend_hook = nullptr;
    active = nullptr;
}

void template_limits::spend(size_t n) {
    template_limits & self = *active;
    const uintptr_t here = stack_position();
    if (here < self.stack && self.stack - here > MAX_STACK_BYTES) {
        self.stop("it is nested too deeply, or it calls itself endlessly");
    }
    self.left -= (int64_t)std::min(n, (size_t)1 << 60);
    if (self.left < 0) {
        self.stop("it takes too many steps or too much memory");
    }
    if (self.left < self.next_question && self.cancel) {
        self.next_question = self.left - UNITS_BETWEEN_QUESTIONS;
        if (self.cancel()) {
            self.cancelled = true;
            self.stop("cancelled");
        }
    }
}

void template_limits::stop(const char * why) {
    reason = reason ? reason : why;
    left = -1; // later steps throw again if a caller catches this
    throw std::runtime_error(reason);
}

void template_limits::check() const {
    if (cancelled) {
        throw cancelled_error("cancelled");
    }
    if (reason) {
        throw template_limit_error(
            std::string("chat template: ") + reason +
            " (it is broken, or hostile: give another with --chat-template / chat_template, or use raw)");
    }
}

} // namespace metadeploy
