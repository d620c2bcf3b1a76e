#include "generation/verdict.h"

#include "finite.h"

#include <algorithm>
#include <cmath>

namespace metadeploy {

namespace {

double gelu(double x) {
    return 0.5 * x * (1.0 + std::erf(x / std::sqrt(2.0)));
}

// in lanes, so that the compiler may use vector instructions without reordering a sum
float dot(const float * a, const float * b, size_t n) {
    constexpr size_t LANES = 16;
    float sums[LANES] = {};
    const size_t n_even = n - n % LANES;
    for (size_t i = 0; i < n_even; i += LANES) {
        for (size_t lane = 0; lane < LANES; ++lane) {
            sums[lane] += a[i + lane] * b[i + lane];
        }
    }
    for (size_t i = n_even; i < n; ++i) {
        sums[0] += a[i] * b[i];
    }
    double sum = 0.0;
    for (const float part : sums) {
        sum += part;
    }
    return (float)sum;
}

} // namespace

std::optional<double> probability_of_error(
    const verdict_head & head,
    const std::vector<float> & prompt,
    const std::vector<float> & means,
    const figure_array & figures) {
    std::vector<float> inputs = prompt;
    inputs.insert(inputs.end(), means.begin(), means.end());
    inputs.insert(inputs.end(), figures.begin(), figures.end());
    const auto n_inputs = (size_t)n_verdict_inputs(head);
    if (inputs.size() != n_inputs || !all_finite(inputs)) {
        return std::nullopt;
    }
    for (size_t i = 0; i < n_inputs; ++i) {
        inputs[i] = std::clamp((inputs[i] - head.mean[i]) * head.scale[i], -MAX_DEVIATION, MAX_DEVIATION);
    }
    double logit = head.output_bias;
    for (size_t i = 0; i < (size_t)head.n_hidden; ++i) {
        const float sum = dot(head.hidden_weight.data() + i * n_inputs, inputs.data(), n_inputs);
        logit += head.output_weight[i] * gelu(sum + head.hidden_bias[i]);
    }
    const double p = 1.0 / (1.0 + std::exp(-(head.slope * logit + head.intercept)));
    return std::isnan(p) ? std::nullopt : std::optional(p); // sums of huge weights may be infinite
}

} // namespace metadeploy
