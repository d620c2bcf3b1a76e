#include "check.h"
#include "model/doubt_reading.h"

#include <cmath>
#include <vector>

using namespace metadeploy;

namespace {

// token 1 is the refusal; `margin` above the highest of the others
doubt_reading with_margin(float margin, double bias = 0.0) {
    const std::vector<float> logits = {-2.0f, 3.0f + margin, 3.0f, 1.0f};
    return read_doubt(logits.data(), (int32_t)logits.size(), 1, bias);
}

bool declines(const doubt_reading & reading, double threshold) {
    return reading.logit_at(threshold) > reading.others;
}

} // namespace

TEST(the_others_are_all_but_the_refusal) {
    const std::vector<float> logits = {5.0f, -1.0f, 4.0f};
    CHECK_EQ(read_doubt(logits.data(), 3, 0, 0.0).others, 4.0f);
    CHECK_EQ(read_doubt(logits.data(), 3, 2, 0.0).others, 5.0f);
    CHECK_EQ(read_doubt(logits.data(), 3, 2, 0.0).logit, 4.0f);
    CHECK_EQ(read_doubt(logits.data(), 1, 0, 0.0).doubt(), 1.0); // nothing else can be said
}

TEST(doubt_is_the_sigmoid_of_margin_and_bias) {
    CHECK_EQ(with_margin(0.0f).doubt(), 0.5);
    CHECK(std::fabs(with_margin(1.0f).doubt() - 0.7310585786300049) < 1e-15);
    CHECK(std::fabs(with_margin(1.0f, -2.0).doubt() - 0.2689414213699951) < 1e-15);
    CHECK_EQ(with_margin(-2000.0f).doubt(), 0.0); // saturates, is never NaN
    CHECK_EQ(with_margin(2000.0f).doubt(), 1.0);
}

TEST(as_calibrated_and_without_bias_nothing_moves) {
    for (const float margin : {-3.0f, -0.1f, 0.1f, 3.0f}) {
        CHECK_EQ(with_margin(margin).logit_at(0.5), with_margin(margin).logit);
    }
    CHECK(declines(with_margin(0.0f), 0.5)); // of two equal tokens the sampler might take either
}

TEST(the_threshold_decides_exactly) {
    for (const float margin : {-30.0f, -3.0f, -0.3f, -1e-6f, 0.0f, 1e-6f, 0.3f, 3.0f, 30.0f}) {
        for (const double bias : {-2.5, 1e-9, 0.7}) {
            const doubt_reading reading = with_margin(margin, bias);
            const double doubt = reading.doubt();
            CHECK(declines(reading, doubt)); // reached is enough, whatever the rounding
            CHECK(!declines(reading, std::nextafter(doubt, 2.0)) || doubt == 1.0);
            for (const double threshold : {1e-12, 0.01, 0.3, 0.5, 0.7, 0.99, 1.0 - 1e-12}) {
                CHECK_EQ(declines(reading, threshold), doubt >= threshold);
            }
        }
    }
}

TEST(a_bias_is_a_threshold) {
    // b at 0.5 is no bias at sigmoid(-b)
    for (const double bias : {-3.0, -0.4, 0.4, 3.0}) {
        const float biased = with_margin(0.8f, bias).logit_at(0.5);
        const float moved = with_margin(0.8f).logit_at(1.0 / (1.0 + std::exp(bias)));
        CHECK(std::fabs(biased - moved) < 1e-5f);
        CHECK(std::fabs(biased - (3.8f + (float)bias)) < 1e-5f);
    }
}

TEST(always_and_never) {
    for (const float margin : {-500.0f, 0.0f, 500.0f}) {
        const doubt_reading reading = with_margin(margin, 5.0);
        CHECK(std::isfinite(reading.logit_at(0.0)));
        CHECK(reading.logit_at(0.0) > reading.others + 1e6f);
        CHECK_EQ(reading.logit_at(1.0), -INFINITY);
    }
}
