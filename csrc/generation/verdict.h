// The verdict on an answer: the probability that it is wrong.
#pragma once

#include "sidecar/verdict.h"

#include <optional>
#include <vector>

namespace metadeploy {

// Inputs are clipped to this number of standard deviations: activations have outliers that training never saw.
inline constexpr float MAX_DEVIATION = 8.0f;

// prompt, means: rows of n_embd in the order of the head's layers. Nothing if a row is missing or a value is not
// finite, as for an answer of which no token was evaluated, or if the weights are so large that sums overflow.
std::optional<double> probability_of_error(
    const verdict_head & head,
    const std::vector<float> & prompt,
    const std::vector<float> & means,
    const figure_array & figures);

} // namespace metadeploy
