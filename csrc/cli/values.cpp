#include "cli/values.h"

#include "cli/args.h"
#include "cli/numbers.h"
#include "errors.h"
#include "text/abstention.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <sstream>

namespace metadeploy {

namespace {

// numbers between commas, of which there must be n
std::vector<double> parse_numbers(
    const std::string & text, size_t n, const std::string & source, const char * example) {
    std::vector<double> numbers;
    const char * at = text.c_str();
    for (char * end = nullptr; *at != '\0'; at = *end == ',' && end[1] != '\0' ? end + 1 : end) {
        const double number = std::strtod(at, &end);
        if (end == at || (*end != ',' && *end != '\0')) {
            break;
        }
        numbers.push_back(number);
    }
    if (*at != '\0' || numbers.size() != n) {
        throw usage_error(
            source + " is '" + text + "', expected " + std::to_string(n) + (n == 1 ? " number" : " numbers") +
            " such as " + example);
    }
    return numbers;
}

int64_t to_count(double number, const std::string & source) {
    if (!(number == std::floor(number) && std::abs(number) < 1e9)) {
        throw usage_error(source + " has " + std::to_string(number) + ", expected a number of tokens");
    }
    return (int64_t)number;
}

// what injection_schedule::check() says is wrong usage here
template <typename F>
void set_schedule(injection_schedule & schedule, const std::string & source, F && set) {
    set();
    try {
        schedule.check();
    } catch (const error & e) {
        throw usage_error(source + ": " + e.what());
    }
}

} // namespace

double parse_gain(const std::string & text, const std::string & source) {
    char * end = nullptr;
    const double gain = std::strtod(text.c_str(), &end);
    if (text.empty() || *end != '\0' || !(gain > -1e6 && gain < 1e6)) {
        throw usage_error(source + " is '" + text + "', expected a number such as 1.0");
    }
    return gain;
}

double parse_threshold(const std::string & text, const std::string & source) {
    char * end = nullptr;
    const double threshold = std::strtod(text.c_str(), &end);
    if (text.empty() || *end != '\0' || !(threshold >= 0.0 && threshold <= 1.0)) {
        throw usage_error(source + " is '" + text + "', expected a number from 0 to 1");
    }
    return threshold;
}

bool parse_on_doubt(const std::string & text, const std::string & source) {
    if (text != "withhold" && text != "flag") {
        throw usage_error(source + " is '" + text + "', expected withhold or flag");
    }
    return text == "withhold";
}

int32_t parse_mib(const std::string & text, const std::string & source) {
    char * end = nullptr;
    const long mib = std::strtol(text.c_str(), &end, 10);
    if (text.empty() || *end != '\0' || mib < 0 || mib > INT32_MAX) {
        throw usage_error(source + " is '" + text + "', expected a number of MiB, 0 or more");
    }
    return (int32_t)mib;
}

std::vector<int32_t> parse_layers(const std::string & text, int32_t n_layer, const std::string & source) {
    std::vector<int32_t> layers;
    const auto add = [&](long long first, long long last) {
        for (long long il = first; il <= last; ++il) {
            layers.push_back((int32_t)il);
        }
    };
    if (text == "all" || text == "late") {
        add(text == "all" ? 0 : 2 * n_layer / 3, n_layer - 1);
        return layers;
    }
    constexpr long long most = 1000; // far more than any decoder has
    const std::string where = source + " '" + text + "': a layer of it";
    std::istringstream parts(text);
    for (std::string part; std::getline(parts, part, ',');) {
        part.erase(std::remove(part.begin(), part.end(), ' '), part.end());
        const size_t dash = part.find('-', 1);
        const long long first = parse_whole(part.substr(0, dash), 0, most, where);
        add(first, dash == std::string::npos ? first : parse_whole(part.substr(dash + 1), first, most, where));
    }
    return layers;
}

std::string parse_refusal_text(const std::string & text, const std::string & source) {
    if (const std::string fault = refusal_text_fault(text); !fault.empty()) {
        throw usage_error(source + " '" + text + "' " + fault);
    }
    return text;
}

void set_decay(injection_schedule & schedule, const std::string & text, const std::string & source) {
    set_schedule(schedule, source, [&] {
        const std::vector<double> numbers = parse_numbers(text, 2, source, "0.3,16");
        schedule.decay = {numbers[0], numbers[1]};
    });
}

void set_window(injection_schedule & schedule, const std::string & text, const std::string & source) {
    set_schedule(schedule, source, [&] { schedule.window = to_count(parse_numbers(text, 1, source, "8")[0], source); });
}

void set_refresh(injection_schedule & schedule, const std::string & text, const std::string & source) {
    set_schedule(schedule, source, [&] {
        const std::vector<double> numbers = parse_numbers(text, 3, source, "0.5,3,20");
        schedule.refresh = {numbers[0], to_count(numbers[1], source), to_count(numbers[2], source)};
    });
}

} // namespace metadeploy
