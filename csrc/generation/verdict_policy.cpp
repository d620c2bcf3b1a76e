#include "generation/verdict_policy.h"

#include "errors.h"

#include <algorithm>
#include <cstdio>
#include <string>

namespace metadeploy {

namespace {

// The file has them in F32, where 0.15 is a little more than 0.15.
constexpr double SLACK = 1e-6;

std::string number(double value) {
    char text[32];
    std::snprintf(text, sizeof(text), "%g", value);
    return text;
}

std::string guaranteed_rates(const verdict_head & head) {
    std::string text;
    for (const error_guarantee & guarantee : head.guarantees) {
        text += (text.empty() ? "" : ", ") + number(guarantee.max_error);
    }
    return text.empty() ? "none" : text;
}

} // namespace

std::optional<double> p_wrong_limit(const verdict_policy & policy, const verdict_head * head) {
    if (!policy.is_set()) {
        return std::nullopt;
    }
    if (policy.max_error && policy.max_p_wrong) {
        throw error("max_error and max_p_wrong are both given, expected one of the two");
    }
    const double rate = policy.max_error.value_or(policy.max_p_wrong.value_or(0.0));
    if (!(rate >= 0.0 && rate <= 1.0)) {
        throw error(
            std::string(policy.max_error ? "max_error" : "max_p_wrong") + " is " + number(rate) + ", expected 0 to 1");
    }
    if (!head) {
        throw error(
            "a limit on the errors of answers is given, but the sidecar has no verdict head (hint: metadeploy verdict "
            "trains one)");
    }
    if (policy.max_p_wrong) {
        return rate;
    }
    const auto above =
        std::find_if(head->guarantees.begin(), head->guarantees.end(), [&](const error_guarantee & guarantee) {
            return guarantee.max_error > rate + SLACK;
        });
    if (above == head->guarantees.begin()) {
        throw error(
            "no error rate of " + number(rate) + " or less is guaranteed, the sidecar's guarantees are " +
            guaranteed_rates(*head));
    }
    return std::prev(above)->threshold;
}

} // namespace metadeploy
