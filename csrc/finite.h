// Checks whether numbers are finite. The loops have no early exit, so that compilers vectorize them.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace metadeploy {

inline bool all_finite(const std::vector<float> & values) {
    int32_t n_odd = 0;
    for (const float value : values) {
        n_odd += !(std::abs(value) <= std::numeric_limits<float>::max());
    }
    return n_odd == 0;
}

// Whether these logits can select a token: none is NaN or plus infinity, and at least one is finite. Minus infinity is
// allowed, because some models forbid tokens with it.
inline bool are_logits(const float * logits, size_t n_vocab) {
    constexpr float MAX = std::numeric_limits<float>::max();
    int32_t n_odd = 0;
    int32_t n_allowed = 0;
    for (size_t i = 0; i < n_vocab; ++i) {
        n_odd += !(logits[i] <= MAX);
        n_allowed += logits[i] >= -MAX;
    }
    return n_odd == 0 && n_allowed > 0;
}

} // namespace metadeploy
