// How the injection changes while an answer grows (docs/modes.md); the twin of metadeploy/schedule.py.
//
// Time t is 0 at every token of the prompt and k at the k-th token after it.
#pragma once

#include <cstdint>
#include <optional>

namespace metadeploy {

// the injection fades: times floor + (1 - floor) · exp(-t / tau)
struct decay_settings {
    double floor = 0.3; // 0 to 1
    double tau = 16.0;  // above 0
};

// cognitive tokens are recomputed when the base's activations have changed (refresher.h)
struct refresh_settings {
    double threshold = 0.5;    // lowest mean cosine at which they are kept
    int64_t min_interval = 3;  // tokens from an encoding to the first comparison, 1 or more
    int64_t max_interval = 20; // most tokens from one encoding to the next, min_interval or more
};

struct injection_schedule {
    std::optional<decay_settings> decay;
    std::optional<int64_t> window; // the last t at which anything is injected, 0 or more
    std::optional<refresh_settings> refresh;

    bool is_static() const { return !decay && !window && !refresh; }

    // the factor of the gain, 0 to 1
    double strength(int64_t t) const;

    // Throws error that names everything that is out of range.
    void check() const;
};

} // namespace metadeploy
