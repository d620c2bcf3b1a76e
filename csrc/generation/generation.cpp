#include "generation/generation.h"

#include "errors.h"
#include "stopwatch.h"
#include "text/refusal.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iterator>
#include <numeric>
#include <tuple>

namespace metadeploy {

namespace {

// at this threshold, only the wrapper's own bias shifts a logit
constexpr double DEFAULT_THRESHOLD = 0.5;

// A lower temperature counts as 0: logits divided by it may be infinite, and the largest logit would win anyway.
constexpr float MIN_TEMPERATURE = 1e-6f;

// Refuses values that make llama.cpp's samplers compute infinities. The command line and Python check most of them
// earlier.
void check_sampling(common_params_sampling & sampling) {
    const std::tuple<const char *, float, float, float> options[] = {
        {"temperature", sampling.temp, 0.0f, 1e6f},
        {"top_p", sampling.top_p, 0.0f, 1.0f},
        {"min_p", sampling.min_p, 0.0f, 1.0f},
        {"repeat penalty (repeat_penalty, --repeat-penalty)", sampling.penalty_repeat, 1e-3f, 1e3f},
        {"presence penalty", sampling.penalty_present, -1e6f, 1e6f},
        {"frequency penalty", sampling.penalty_freq, -1e6f, 1e6f},
    };
    for (const auto & [name, value, min, max] : options) {
        if (!(value >= min && value <= max)) {
            char text[128];
            std::snprintf(text, sizeof(text), "the %s is %g, expected %g to %g", name, value, min, max);
            throw error(text);
        }
    }
    if (sampling.temp < MIN_TEMPERATURE) {
        sampling.temp = 0.0f;
    }
}

generation_params alone_if_judged(generation_params params) {
    if (params.policy.is_set()) {
        params.inject.on = false;
        params.doubt_threshold = DEFAULT_THRESHOLD;
    }
    return params;
}

// Appends what a later step adds.
void append(chunk & to, chunk && from) {
    to.text += from.text;
    to.tokens.insert(to.tokens.end(), from.tokens.begin(), from.tokens.end());
    std::move(from.logprobs.begin(), from.logprobs.end(), std::back_inserter(to.logprobs));
    from = {};
}

} // namespace

const char * finish_reason_name(finish_reason reason) {
    switch (reason) {
    case finish_reason::none:
        return "none";
    case finish_reason::stop:
        return "stop";
    case finish_reason::length:
        return "length";
    }
    return "none";
}

generation::generation(
    engine & eng, sequence & seq, std::vector<llama_token> prompt, generation_params params_, sequence * clean)
    : eng(eng),
      seq(seq),
      params(alone_if_judged(std::move(params_))),
      limit(p_wrong_limit(params.policy, eng.verdict())),
      sampler(make_sampler()),
      stream(params.stop),
      passes(eng, seq, std::move(prompt), params.inject, prompt_passes::goal::answer, clean),
      clean(clean),
      refusal(eng.meta() ? eng.meta()->config().refusal_text : DEFAULT_REFUSAL_TEXT) {}

size_t generation::n_sequences(const engine & eng, const generation_params & params) {
    const injection & inject = params.inject;
    return inject.schedule.refresh && inject.on && inject.gain != 0.0 && eng.meta() ? 2 : 1;
}

common_sampler * generation::make_sampler() {
    check_sampling(params.sampling);
    if (!(params.doubt_threshold >= 0.0 && params.doubt_threshold <= 1.0)) {
        throw error("the doubt threshold is " + std::to_string(params.doubt_threshold) + ", expected 0 to 1");
    }
    if (params.doubt_threshold != DEFAULT_THRESHOLD) {
        const std::string subject = "the doubt threshold is " + std::to_string(params.doubt_threshold);
        if (!params.inject.on || !eng.meta()) {
            throw error(
                subject +
                ", but the base answers alone: " + (eng.meta() ? "the injection is off" : "no sidecar is attached"));
        }
        check_declines(eng.meta()->config(), subject);
    }
    eng.require_vocab();
    common_sampler * made = common_sampler_init(eng.model(), params.sampling);
    if (!made) {
        throw error("the sampling parameters are refused by llama.cpp (a malformed grammar?)");
    }
    return made;
}

batch_part generation::next_batch(size_t n_max) {
    if (!passes.done()) {
        return passes.next_batch(n_max);
    }
    return {&seq, &generated.back(), 1, outputs::last, cache_mode::off};
}

void generation::on_evaluated(double ms) {
    if (passes.done()) {
        decode_ms += ms;
        eng.check_logits(seq);
        if (gathered) {
            gathered->on_evaluated();
        }
        return;
    }
    passes.on_evaluated(ms);
    if (passes.done()) {
        begin_answer();
    }
}

std::optional<batch_part> generation::next_clean_batch(size_t n_max) {
    return clean_ctx ? clean_ctx->next_batch(generated, n_max) : std::nullopt;
}

void generation::on_clean_evaluated(double ms) {
    decode_ms += ms;
    clean_ctx->on_evaluated();
}

void generation::begin_answer() {
    if (params.inject.on && eng.meta()) {
        reading = doubt_after(eng, seq, passes.tokens().back());
        const wrapper_config & config = eng.meta()->config();
        if (!reading && config.declines() &&
            (params.doubt_threshold != DEFAULT_THRESHOLD || config.refusal_bias != 0.0f)) {
            throw error(UNKNOWN_REFUSAL);
        }
    }
    if (eng.answers()) {
        gathered.emplace(eng, seq, passes.has_activations());
        seq.plan.answer_from = (llama_pos)passes.tokens().size();
    }
    if (clean) {
        clean_ctx.emplace(eng, seq, *clean, *params.inject.schedule.refresh);
    }
    for (const llama_token token : passes.tokens()) {
        common_sampler_accept(sampler.get(), token, /*is_generated =*/false);
    }
}

// Samples the first token with the refusal's logit shifted, then restores the model's own logit, which
// log-probabilities are computed from. At gain 0 nothing is shifted, because that is the base exactly.
llama_token generation::sample_token() {
    if (!generated.empty() || !reading || !injects(params.inject, eng.meta())) {
        return common_sampler_sample(sampler.get(), eng.context(), seq.logits_row);
    }
    struct shifted_logit { // restored even if the sampler throws
        float & logit;
        const float own;
        ~shifted_logit() { logit = own; }
    } const shifted{eng.logits(seq)[reading->refusal], reading->logit};
    shifted.logit = reading->logit_at(params.doubt_threshold);
    return common_sampler_sample(sampler.get(), eng.context(), seq.logits_row);
}

bool generation::end(finish_reason why, chunk & out) {
    reason = why;
    if (gathered) {
        gathered->finish();
    }
    out.text += stream.flush();
    return false;
}

bool generation::at_limit(chunk & out) {
    const bool long_enough = params.max_tokens >= 0 && (int64_t)generated.size() >= params.max_tokens;
    if (long_enough || (!generated.empty() && eng.context_full(seq))) {
        end(finish_reason::length, out);
        hold_back(out, /*more =*/false);
    }
    return reason != finish_reason::none;
}

bool generation::sample(chunk & out) {
    const bool more = next_token(out);
    return hold_back(out, more);
}

bool generation::too_doubtful() const {
    if (!limit) {
        return false;
    }
    const std::optional<double> p = p_wrong();
    return p ? *p > *limit : reason != finish_reason::none; // nothing is promised of an answer without a verdict
}

// While the verdict is not known, keeps the chunk for a later one. An answer that is too doubtful ends and becomes the
// refusal. Returns whether more tokens come.
bool generation::hold_back(chunk & out, bool more) {
    if (!limit || !params.policy.withhold || is_released) {
        return more;
    }
    append(held, std::move(out));
    const bool is_known = p_wrong().has_value();
    if (!is_known && more) {
        return true;
    }
    is_released = true;
    if (!too_doubtful() || abstained()) {
        out = std::move(held);
        return more;
    }
    withheld = true;
    reason = finish_reason::stop;
    out.text = refusal;
    return false;
}

bool generation::next_token(chunk & out) {
    const stopwatch clock(decode_ms);
    const llama_token token = sample_token();
    common_sampler_accept(sampler.get(), token, /*is_generated =*/true);
    if (llama_vocab_is_eog(eng.vocab(), token)) {
        return end(finish_reason::stop, out);
    }
    if (params.n_logprobs >= 0) {
        out.logprobs.push_back(logprob_of(token));
    }
    generated.push_back(token);
    out.tokens.push_back(token);
    const std::string piece = eng.piece(token);
    if (gathered) {
        gathered->on_token(token, piece);
    }
    out.text = stream.push(piece);
    if (stream.stopped()) {
        reason = finish_reason::stop;
        if (gathered) {
            gathered->finish();
        }
        return false;
    }
    return true;
}

timings generation::times() const {
    timings time = passes.times();
    time.decode_ms = decode_ms;
    time.n_generated = (int32_t)generated.size();
    time.n_refreshed = clean_ctx ? clean_ctx->n_refreshed() : 0;
    return time;
}

token_logprob generation::logprob_of(llama_token token) const {
    const float * logits = eng.logits(seq);
    const size_t n_vocab = (size_t)eng.n_vocab();
    const float max = *std::max_element(logits, logits + n_vocab);
    double sum = 0.0;
    for (size_t i = 0; i < n_vocab; ++i) {
        sum += std::exp((double)logits[i] - max);
    }
    const double log_sum = max + std::log(sum);

    token_logprob result{token, eng.piece(token), (float)(logits[token] - log_sum), {}};
    const size_t n_top = std::min((size_t)params.n_logprobs, n_vocab);
    std::vector<llama_token> order(n_vocab);
    std::iota(order.begin(), order.end(), 0);
    std::partial_sort(
        order.begin(), order.begin() + (std::ptrdiff_t)n_top, order.end(),
        [&](llama_token a, llama_token b) { return logits[a] > logits[b]; });
    for (size_t i = 0; i < n_top; ++i) {
        result.top.emplace_back(order[i], (float)(logits[order[i]] - log_sum));
    }
    return result;
}

std::optional<double> generation::doubt() const {
    return reading ? std::optional(reading->doubt()) : std::nullopt;
}

} // namespace metadeploy
