#include "generation/refresher.h"

#include <algorithm>
#include <cmath>

namespace metadeploy {

double mean_cosine(const std::vector<float> & a, const std::vector<float> & b, size_t n_embd) {
    constexpr double MIN_NORM = 1e-8; // as PyTorch has it
    double sum = 0.0;
    for (size_t first = 0; first < a.size(); first += n_embd) {
        double dot = 0.0;
        double norm_a = 0.0;
        double norm_b = 0.0;
        for (size_t i = first; i < first + n_embd; ++i) {
            dot += (double)a[i] * b[i];
            norm_a += (double)a[i] * a[i];
            norm_b += (double)b[i] * b[i];
        }
        sum += dot / (std::max(std::sqrt(norm_a), MIN_NORM) * std::max(std::sqrt(norm_b), MIN_NORM));
    }
    return sum / ((double)a.size() / (double)n_embd);
}

bool refresher::update(int64_t t, const std::vector<float> & activations) {
    compared_at = t;
    if (!overdue(t) && mean_cosine(activations, encoded, n_embd) >= settings.threshold) {
        interval += settings.min_interval;
        return false;
    }
    encoded = activations;
    encoded_at = t;
    interval = settings.min_interval;
    return true;
}

} // namespace metadeploy
