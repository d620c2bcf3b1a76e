#include "model/injection_schedule.h"

#include "errors.h"

#include <cmath>
#include <string>
#include <vector>

namespace metadeploy {

double injection_schedule::strength(int64_t t) const {
    if (window && t > *window) {
        return 0.0;
    }
    return decay ? decay->floor + (1.0 - decay->floor) * std::exp(-(double)t / decay->tau) : 1.0;
}

void injection_schedule::check() const {
    std::vector<std::string> faults;
    const auto expect = [&](bool holds, const std::string & name, const std::string & value, const char * range) {
        if (!holds) {
            faults.push_back(name + " is " + value + ", expected " + range);
        }
    };
    if (decay) {
        const auto & [floor, tau] = *decay;
        expect(floor >= 0.0 && floor <= 1.0, "decay's floor", std::to_string(floor), "0 to 1");
        expect(tau > 0.0 && std::isfinite(tau), "decay's tau", std::to_string(tau), "a number above 0");
    }
    if (window) {
        expect(*window >= 0, "the window", std::to_string(*window), "0 or more");
    }
    if (refresh) {
        const auto & [threshold, min, max] = *refresh;
        expect(std::isfinite(threshold), "refresh's threshold", std::to_string(threshold), "a number");
        expect(min >= 1, "refresh's min_interval", std::to_string(min), "1 or more");
        expect(max >= min, "refresh's max_interval", std::to_string(max), "at least its min_interval");
    }
    if (!faults.empty()) {
        throw error(faults_message("injection schedule", faults));
    }
}

} // namespace metadeploy
