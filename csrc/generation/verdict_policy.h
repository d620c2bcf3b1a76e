// What happens to an answer that is probably wrong.
#pragma once

#include "sidecar/sidecar.h"

#include <optional>

namespace metadeploy {

struct verdict_policy {
    std::optional<double> max_error;   // 0 to 1: an error rate that the verdict head guarantees
    std::optional<double> max_p_wrong; // 0 to 1: answers above it are too doubtful
    bool withhold = true;              // they become the refusal; false: they are only marked

    bool is_set() const { return max_error || max_p_wrong; }
};

// Returns the highest p_wrong of answers that are kept; nothing without a policy. head: nullptr if there is none.
// Throws error if there is no head, or if it guarantees no such error rate.
std::optional<double> p_wrong_limit(const verdict_policy & policy, const verdict_head * head);

} // namespace metadeploy
