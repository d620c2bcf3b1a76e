// Doubt: how close an answer is to beginning with the trained refusal, and the threshold from which on it does.
#pragma once

#include "llama.h"

#include <cstdint>
#include <optional>

namespace metadeploy {

class engine;
struct sequence;

// The token that a refusal begins with against all others, at the first token of an answer. Logits are the model's own,
// before grammar, penalties and temperature.
struct doubt_reading {
    llama_token refusal;
    float logit;  // of that token
    float others; // the highest of all other tokens
    double bias;  // calibrated, the wrapper's

    // sigmoid(logit - others + bias), in (0, 1): above 0.5 if a greedy answer begins with the refusal
    double doubt() const;

    // The logit that the refusal is sampled with, so that a greedy answer declines exactly where doubt() >= threshold:
    // bias - log(threshold / (1 - threshold)) more than the model's. 0: always declines, 1: never.
    float logit_at(double threshold) const;
};

// the error if doubt is needed and cannot be read
inline constexpr char UNKNOWN_REFUSAL[] =
    "the sidecar does not say the refusal's tokens (refusal_token_ids), and the model has no vocabulary to make them";

// logits: n_vocab values; refusal: one of them
doubt_reading read_doubt(const float * logits, int32_t n_vocab, llama_token refusal, double bias);

// Reads the doubt from the logits of a prompt's last token, which the sequence must have. Returns nothing without a
// wrapper that declines, or if both wrapper and vocabulary lack the token that a refusal begins with.
std::optional<doubt_reading> doubt_after(const engine & eng, const sequence & seq, llama_token last_prompt_token);

} // namespace metadeploy
