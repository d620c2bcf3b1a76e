// A prompt, and steps of decoding with tokens from outside. There is no sampler and no text, so no vocabulary is
// needed. For measurements, which time only the computation of the model.
#pragma once

#include "generation/timings.h"
#include "model/engine.h"
#include "model/injection.h"

#include <cstddef>
#include <utility>
#include <vector>

namespace metadeploy {

// Both passes over a prompt, or the clean one if nothing is injected: their times, and the likeliest next token.
std::pair<timings, llama_token> prefill(
    engine & eng, size_t slot, const std::vector<llama_token> & tokens, const injection & inject);

// A batch with one token for each of the first sequences, injected into or clean whatever came before: milliseconds,
// and the likeliest token after each.
std::pair<double, std::vector<llama_token>> decode(
    engine & eng, const std::vector<llama_token> & tokens, const injection & inject);

} // namespace metadeploy
