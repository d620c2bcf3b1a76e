// Decides when cognitive tokens are recomputed while an answer grows.
//
// Let s be the time of the last encoding, at first 0, and c the time of the last comparison or encoding. At s +
// max_interval the clean activations at the newest token are encoded without being compared. Otherwise they are
// compared at c + interval, and encoded if the mean cosine is below the threshold. The interval is min_interval after
// every encoding. A comparison that changes nothing makes it longer by min_interval.
#pragma once

#include "model/injection_schedule.h"

#include <cstddef>
#include <cstdint>
#include <vector>

namespace metadeploy {

class refresher {
public:
    // encoded: the activations that the cognitive tokens of the prompt were encoded from, rows of n_embd values
    refresher(const refresh_settings & settings, std::vector<float> encoded, size_t n_embd)
        : settings(settings), encoded(std::move(encoded)), n_embd(n_embd), interval(settings.min_interval) {}

    bool due(int64_t t) const { return overdue(t) || t - compared_at == interval; }

    // Call this with the clean activations at a time that is due. Returns whether to encode them.
    bool update(int64_t t, const std::vector<float> & activations);

private:
    bool overdue(int64_t t) const { return t - encoded_at == settings.max_interval; }

    const refresh_settings settings;
    std::vector<float> encoded;
    const size_t n_embd;
    int64_t interval;
    int64_t encoded_at = 0;
    int64_t compared_at = 0;
};

// mean over the rows of the cosine between a and b
double mean_cosine(const std::vector<float> & a, const std::vector<float> & b, size_t n_embd);

} // namespace metadeploy
