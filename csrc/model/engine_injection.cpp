// What is injected into a prompt and its answer: checked, planned, and made anew.
#include "errors.h"
#include "finite.h"
#include "model/engine.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace metadeploy {

namespace {

// What overflows in the base would stay in its memory as NaN, which spreads to later prompts. Gains are some 1, and
// cognitive tokens come from a LayerNorm.
constexpr double TOO_LARGE = 1e6;

// Bounds on the most that an injection adds to a hidden state, in all layers together. Up to SAFE_REACH it is about as
// large as the outliers of many bases, which are in the thousands: it does not cause an overflow, not even in F16
// (65504). From MOST_REACH on, squares overflow in F32, and so does every norm of the base.
constexpr double SAFE_REACH = 1e4;
constexpr double MOST_REACH = 1e18;

std::string number(double value) {
    char text[32];
    std::snprintf(text, sizeof(text), "%.3g", value);
    return text;
}

} // namespace

bool engine::injects(const injection & inject) const {
    if (!(std::abs(inject.gain) < TOO_LARGE)) {
        throw error("the gain is " + std::to_string(inject.gain) + ", expected a number such as 1.0, below a million");
    }
    return meta_wrapper && inject.on && inject.gain != 0.0;
}

void engine::check(const injection & inject) const {
    inject.schedule.check();
    if (!inject.on || !meta_wrapper) {
        const char * given = inject.tokens                  ? "cognitive tokens are given"
                             : !inject.schedule.is_static() ? "a schedule is given"
                                                            : nullptr;
        if (given) {
            throw error(
                std::string(given) +
                ", but the base answers alone: " + (meta_wrapper ? "the injection is off" : "no sidecar is attached"));
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
    const std::vector<int64_t> expected = {meta_wrapper->config().n_cog, n_embd()};
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

token_plan engine::injected_from(const std::vector<llama_token> & tokens, const injection & inject) const {
    token_plan plan;
    plan.gain = inject.gain;
    plan.schedule = inject.schedule;
    plan.time_zero = (llama_pos)tokens.size() - 1;
    if (meta_wrapper->config().from == inject_from::last_prompt_token) {
        plan.inject_from = plan.time_zero;
    }
    return plan;
}

std::vector<float> engine::tapped(const sequence & seq) const {
    return meta_wrapper->activations(seq.id);
}

void engine::encode(sequence & seq, double gain) {
    try {
        meta_wrapper->encode(seq.id);
    } catch (const decode_error &) {
        if (!all_finite(tapped(seq))) { // the base itself has overflowed
            seq.kept = {};
            seq.unproven = true;
        }
        throw;
    }
    check_reach(seq, gain);
}

void engine::fold(sequence & seq, const std::vector<float> & tokens, double gain) {
    meta_wrapper->fold(tokens, seq.id);
    check_reach(seq, gain);
}

void engine::check_reach(const sequence & seq, double gain) const {
    if (const double reach = std::abs(gain) * meta_wrapper->reach(seq.id); !(reach < MOST_REACH)) {
        throw decode_error(
            "sidecar '" + meta_wrapper->path() + "': what it injects at gain " + number(gain) + " is up to " +
            number(reach) + ", expected less than " + number(MOST_REACH) +
            ": the base would overflow (huge weights, or a gain that is too large)");
    }
}

bool engine::may_overflow(const batch_part & part) const {
    const token_plan & plan = part.seq->plan;
    return plan.gain != 0.0 && meta_wrapper && std::abs(plan.gain) * meta_wrapper->reach(part.seq->id) > SAFE_REACH &&
           part.seq->n_past + (llama_pos)part.n_tokens > plan.inject_from;
}

// Runs for each token. The cost is negligible next to the sampler's work on the same logits.
void engine::check_logits(sequence & seq, size_t n_tokens) {
    for (size_t i = 0; i < n_tokens; ++i) {
        const float * row = llama_get_logits_ith(ctx, seq.logits_row - (int32_t)i);
        if (are_logits(row, (size_t)n_vocab())) {
            continue;
        }
        seq.unproven = true;
        if (meta_wrapper && seq.plan.gain != 0.0) {
            throw decode_error(
                "sidecar '" + meta_wrapper->path() + "': at gain " + number(seq.plan.gain) +
                " the base overflows: its logits are not finite (huge weights, or a gain that is too large)");
        }
        throw decode_error(
            "model '" + parameters.model.path +
            "': its logits are not finite, without any injection (a damaged file, or activations that overflow)");
    }
    seq.unproven = false;
}

void engine::renew(sequence & seq, const std::vector<float> & activations) {
    meta_wrapper->set_activations(activations, seq.id);
    encode(seq, seq.plan.gain);
}

} // namespace metadeploy
