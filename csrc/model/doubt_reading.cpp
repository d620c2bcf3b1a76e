#include "model/doubt_reading.h"

#include <algorithm>
#include <cmath>

namespace metadeploy {

namespace {

// above every other logit at any temperature; not infinity, of which a softmax makes NaN
constexpr float CERTAIN = 1e9f;

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
    // a rounding error must not decide, nor which of two equal tokens the sampler takes
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

} // namespace metadeploy
