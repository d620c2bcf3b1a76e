#include "runtime/generation.h"

#include "errors.h"
#include "runtime/abstention.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>

namespace metadeploy {

namespace {

// the threshold that moves nothing but by the wrapper's own bias
constexpr double AS_CALIBRATED = 0.5;

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

generation::generation(engine & eng, const std::vector<llama_token> & prompt, generation_params params_)
    : eng(eng), params(std::move(params_)), stream(params.stop) {
    for (const float value : {params.sampling.temp, params.sampling.top_p, params.sampling.min_p}) {
        if (!std::isfinite(value)) {
            throw error("temperature, top_p or min_p is " + std::to_string(value) + ", expected a finite number");
        }
    }
    if (!(params.sampling.penalty_repeat > 0.0f)) {
        throw error(
            "the repeat penalty is " + std::to_string(params.sampling.penalty_repeat) +
            ", expected more than 0 (1 for none)");
    }
    check_threshold();
    eng.require_vocab();
    sampler.reset(common_sampler_init(eng.model(), params.sampling));
    if (!sampler) {
        throw error("the sampling parameters are refused by llama.cpp (a malformed grammar?)");
    }
    eng.prefill(prompt, params.inject, time);
    if (params.inject.on && eng.meta()) {
        reading = eng.doubt_after(prompt.back());
        if (!reading && (params.doubt_threshold != AS_CALIBRATED || eng.meta()->config().refusal_bias != 0.0f)) {
            throw error(UNKNOWN_REFUSAL);
        }
    }
    for (const llama_token token : prompt) {
        common_sampler_accept(sampler.get(), token, /*is_generated =*/false);
    }
}

void generation::check_threshold() const {
    if (!(params.doubt_threshold >= 0.0 && params.doubt_threshold <= 1.0)) {
        throw error("the doubt threshold is " + std::to_string(params.doubt_threshold) + ", expected 0 to 1");
    }
    if (params.doubt_threshold != AS_CALIBRATED && !(params.inject.on && eng.meta())) {
        throw error(
            "the doubt threshold is " + std::to_string(params.doubt_threshold) +
            ", but the base answers alone: " + (eng.meta() ? "the injection is off" : "no sidecar is attached"));
    }
}

// The first token is sampled with the refusal's logit moved, and the model's own is put back: log-probabilities are of
// those. With gain 0 nothing is moved, for that is the base exactly.
llama_token generation::sample() {
    if (!generated.empty() || !reading || !eng.injects(params.inject)) {
        return common_sampler_sample(sampler.get(), eng.context(), -1);
    }
    float & logit = eng.logits()[reading->refusal];
    logit = reading->logit_at(params.doubt_threshold);
    const llama_token token = common_sampler_sample(sampler.get(), eng.context(), -1);
    logit = reading->logit;
    return token;
}

bool generation::end(finish_reason why, chunk & out) {
    reason = why;
    out.text += stream.flush();
    return false;
}

bool generation::step(chunk & out) {
    out = {};
    if (reason != finish_reason::none) {
        return false;
    }
    if (params.max_tokens >= 0 && (int64_t)generated.size() >= params.max_tokens) {
        return end(finish_reason::length, out);
    }
    const auto start = std::chrono::steady_clock::now();
    if (pending) {
        if (eng.context_full()) {
            return end(finish_reason::length, out);
        }
        eng.decode(generated.back());
        pending = false;
    }
    const llama_token token = sample();
    common_sampler_accept(sampler.get(), token, /*is_generated =*/true);
    const auto stop_clock = [&] {
        time.decode_ms += std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
    };
    if (llama_vocab_is_eog(eng.vocab(), token)) {
        stop_clock();
        return end(finish_reason::stop, out);
    }
    if (params.n_logprobs >= 0) {
        out.logprobs.push_back(logprob_of(token));
    }
    generated.push_back(token);
    out.tokens.push_back(token);
    pending = true;
    time.n_generated = (int32_t)generated.size();
    out.text = stream.push(eng.piece(token));
    stop_clock();
    if (stream.stopped()) {
        reason = finish_reason::stop;
        return false;
    }
    return true;
}

token_logprob generation::logprob_of(llama_token token) const {
    const float * logits = eng.logits();
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

bool generation::abstained() const {
    const std::string refusal = eng.meta() ? eng.meta()->config().refusal_text : DEFAULT_REFUSAL_TEXT;
    return is_abstention(text(), refusal, reason != finish_reason::stop);
}

} // namespace metadeploy
