#include "model/doubt_reading.h"

#include "model/engine.h"
#include "text/refusal.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

namespace metadeploy {

namespace {

// above every other logit at any temperature; not infinity, of which a softmax makes NaN
constexpr float CERTAIN = 1e9f;

// Uses the token of training if the sidecar has it. Otherwise tokenizes the refusal after the text of the prompt's last
// token.
std::optional<llama_token> refusal_token(const engine & eng, llama_token last_prompt_token) {
    if (!eng.meta() || !eng.meta()->config().declines()) {
        return std::nullopt;
    }
    const wrapper_config & config = eng.meta()->config();
    if (!config.refusal_token_ids.empty()) {
        return config.refusal_token_ids.front();
    }
    if (llama_vocab_type(eng.vocab()) == LLAMA_VOCAB_TYPE_NONE) {
        return std::nullopt;
    }
    const std::string before = eng.detokenize({last_prompt_token}, /*special =*/true);
    const std::vector<llama_token> tokens = tokens_after(eng.vocab(), before, config.refusal_text);
    return tokens.empty() ? std::nullopt : std::optional(tokens.front());
}

} // namespace

double doubt_reading::doubt() const {
    return 1.0 / (1.0 + std::exp(-((double)logit - (double)others + bias)));
}

float doubt_reading::logit_at(double threshold) const {
    if (threshold <= 0.0) {
        return others + CERTAIN;
    }
    if (threshold >= 1.0) {
        return -INFINITY;
    }
    const double shift = bias - std::log(threshold / (1.0 - threshold));
    const auto moved = (float)(logit + shift);
    // a rounding error must not decide, and not the sampler's choice between two equal tokens
    return doubt() >= threshold ? std::max(moved, std::nextafter(others, INFINITY))
                                : std::min(moved, std::nextafter(others, -INFINITY));
}

doubt_reading read_doubt(const float * logits, int32_t n_vocab, llama_token refusal, double bias) {
    float others = -INFINITY;
    for (llama_token token = 0; token < n_vocab; ++token) {
        if (token != refusal) {
            others = std::max(others, logits[token]);
        }
    }
    return {refusal, logits[refusal], others, bias};
}

std::optional<doubt_reading> doubt_after(const engine & eng, const sequence & seq, llama_token last_prompt_token) {
    const std::optional<llama_token> refusal = refusal_token(eng, last_prompt_token);
    if (!refusal) {
        return std::nullopt;
    }
    return read_doubt(eng.logits(seq), eng.n_vocab(), *refusal, eng.meta()->config().refusal_bias);
}

} // namespace metadeploy
