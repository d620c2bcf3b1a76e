// The twin of tests/unit/test_schedule.py and of the times in tests/unit/reference/test_schedule.py.
#include "check.h"
#include "errors.h"
#include "generation/refresher.h"
#include "model/sequence.h"

#include <cmath>
#include <limits>
#include <vector>

using namespace metadeploy;

namespace {

using times = std::vector<int64_t>;

struct followed {
    times looked;
    times encoded;
};

// thought[t] is thought at time t; different thoughts are at right angles
followed follow(const refresh_settings & settings, const std::vector<size_t> & thought) {
    const auto activations = [&](size_t t) {
        std::vector<float> row(3, 0.0f);
        row[thought[t]] = 2.0f;
        return row;
    };
    refresher when(settings, activations(0), 3);
    followed found;
    for (size_t t = 1; t < thought.size(); ++t) {
        if (when.due((int64_t)t)) {
            found.looked.push_back((int64_t)t);
            if (when.update((int64_t)t, activations(t))) {
                found.encoded.push_back((int64_t)t);
            }
        }
    }
    return found;
}

std::string fault_of(const injection_schedule & schedule) {
    try {
        schedule.check();
    } catch (const error & e) {
        return e.what();
    }
    return "";
}

} // namespace

TEST(strength_fades_and_ends) {
    injection_schedule schedule;
    CHECK(schedule.is_static());
    CHECK_EQ(schedule.strength(1000), 1.0);
    schedule.decay = decay_settings{0.2, 3.0};
    CHECK(!schedule.is_static());
    CHECK_EQ(schedule.strength(0), 1.0);
    CHECK(std::fabs(schedule.strength(6) - (0.2 + 0.8 * std::exp(-2.0))) < 1e-15);
    schedule.window = 5;
    CHECK(schedule.strength(5) > 0.0);
    CHECK_EQ(schedule.strength(6), 0.0);
}

TEST(gain_by_position) {
    token_plan plan;
    CHECK_EQ(plan.gain_at(7), 0.0f);
    plan.gain = 0.7;
    CHECK_EQ(plan.gain_at(0), 0.7f);
    plan.inject_from = plan.schedule_start = 9;
    plan.schedule.decay = decay_settings{};
    plan.schedule.window = 2;
    CHECK_EQ(plan.gain_at(8), 0.0f);
    CHECK_EQ(plan.gain_at(9), 0.7f);
    CHECK_EQ(plan.gain_at(11), (float)(0.7 * (0.3 + 0.7 * std::exp(-2.0 / 16.0)))); // rounded once
    CHECK_EQ(plan.gain_at(12), 0.0f);
}

TEST(times_of_the_defaults) {
    std::vector<size_t> thought(65, 0);
    CHECK(follow({}, thought).looked == (times{3, 9, 18, 20, 23, 29, 38, 40, 43, 49, 58, 60, 63}));
    CHECK(follow({}, thought).encoded == (times{20, 40, 60}));
    std::fill(thought.begin() + 11, thought.end(), 1);
    CHECK(follow({}, thought).looked == (times{3, 9, 18, 21, 27, 36, 38, 41, 47, 56, 58, 61}));
    CHECK(follow({}, thought).encoded == (times{18, 38, 58}));
    CHECK(follow({-1.1, 3, 20}, thought).encoded == (times{20, 40, 60}));
    CHECK(
        follow({1.1, 4, std::numeric_limits<int64_t>::max()}, std::vector<size_t>(14, 0)).encoded == (times{4, 8, 12}));
}

TEST(mean_of_cosines) {
    CHECK(std::fabs(mean_cosine({3, 4, 1, 0}, {4, 3, -2, 0}, 2) - (24.0 / 25.0 - 1.0) / 2.0) < 1e-15);
    CHECK_EQ(mean_cosine({0, 0}, {1, 0}, 2), 0.0); // a norm of nothing is no division by zero
}

TEST(what_is_out_of_range_is_named) {
    injection_schedule schedule;
    CHECK_EQ(fault_of(schedule), "");
    schedule.window = -1;
    CHECK_EQ(fault_of(schedule), "injection schedule: the window is -1, expected 0 or more");
    schedule.decay = decay_settings{1.5, std::nan("")};
    schedule.refresh = refresh_settings{INFINITY, 0, -1};
    CHECK(fault_of(schedule).find("6 faults") != std::string::npos);
}
