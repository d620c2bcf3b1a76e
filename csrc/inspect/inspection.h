// What a model computes on the way to an answer: activations, logits at every position, outputs of blocks, attention.
//
// All functions compute in the engine's first sequence. Results are rows of n_embd or n_vocab values, row after row.
#pragma once

#include "model/engine.h"
#include "model/injection.h"

#include <cstdint>
#include <vector>

namespace metadeploy {

// of the last token, n_target rows
std::vector<float> compute_activations(engine & eng, const std::vector<llama_token> & tokens);
// n_cog rows
std::vector<float> compute_cognitive_tokens(engine & eng, const std::vector<llama_token> & tokens);
// a row for each token
std::vector<float> compute_logits(engine & eng, const std::vector<llama_token> & tokens, const injection & inject);
// for each of the layers, a row for each token
std::vector<float> compute_layer_outputs(
    engine & eng,
    const std::vector<llama_token> & tokens,
    const std::vector<int32_t> & layers,
    const injection & inject);
// for each cross-attention layer and token: n_head rows of n_cog weights
std::vector<float> compute_attention(engine & eng, const std::vector<llama_token> & tokens, double gain);

double compute_doubt(engine & eng, const std::vector<llama_token> & tokens, double gain);

} // namespace metadeploy
