#include "model/injection.h"

#include "errors.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

namespace metadeploy {

namespace {

// An overflow in the base would stay in its memory as NaN, which spreads to later prompts. Gains are around 1, and
// cognitive tokens come from a LayerNorm.
constexpr double TOO_LARGE = 1e6;

} // namespace

bool injects(const injection & inject, const wrapper * meta) {
    if (!(std::abs(inject.gain) < TOO_LARGE)) {
        throw error("the gain is " + std::to_string(inject.gain) + ", expected a number such as 1.0, below a million");
    }
    return meta && inject.on && inject.gain != 0.0;
}

void check_injection(const injection & inject, const wrapper * meta) {
    inject.schedule.check();
    if (!inject.on || !meta) {
        const char * given = inject.tokens                  ? "cognitive tokens are given"
                             : !inject.schedule.is_static() ? "a schedule is given"
                                                            : nullptr;
        if (given) {
            throw error(
                std::string(given) +
                ", but the base answers alone: " + (meta ? "the injection is off" : "no sidecar is attached"));
        }
        return;
    }
    if (!inject.tokens) {
        return;
    }
    if (inject.schedule.refresh) {
        throw error("cognitive tokens are given and stay as they are, but the schedule refreshes them");
    }
    const auto & [shape, data] = *inject.tokens;
    const std::vector<int64_t> expected = {meta->config().n_cog, meta->config().n_embd};
    const auto text = [](const std::vector<int64_t> & numbers) {
        std::string list;
        for (const int64_t n : numbers) {
            list += (list.empty() ? "" : ", ") + std::to_string(n);
        }
        return "[" + list + "]";
    };
    if (shape != expected) {
        throw model_mismatch_error(
            "cognitive tokens have shape " + text(shape) + ", expected " + text(expected) +
            " (encoded by another wrapper?)");
    }
    if (!std::all_of(data.begin(), data.end(), [](float value) { return std::abs(value) < TOO_LARGE; })) {
        throw model_mismatch_error("cognitive tokens have values that are huge or not finite, expected none");
    }
}

token_plan plan_injection(const injection & inject, const wrapper & meta, size_t n_prompt) {
    token_plan plan;
    plan.gain = inject.gain;
    plan.schedule = inject.schedule;
    plan.schedule_start = (llama_pos)n_prompt - 1;
    if (meta.config().from == inject_from::last_prompt_token) {
        plan.inject_from = plan.schedule_start;
    }
    return plan;
}

} // namespace metadeploy
