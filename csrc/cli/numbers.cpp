#include "cli/numbers.h"

#include "cli/args.h"

#include "arg.h"

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cfloat>
#include <climits>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>

namespace metadeploy {

namespace {

struct range {
    double min;
    double max;
};

constexpr double LARGE = 1e6; // larger values, and values far below 1, make logits infinite

// flags whose value llama.cpp reads as a float
const std::map<std::string, range> & float_flags() {
    static const std::map<std::string, range> flags = {
        {"--temp", {0.0, LARGE}},
        {"--top-p", {0.0, 1.0}},
        {"--min-p", {0.0, 1.0}},
        {"--top-nsigma", {-1.0, LARGE}},
        {"--xtc-probability", {0.0, 1.0}},
        {"--xtc-threshold", {0.0, 1.0}},
        {"--typical", {0.0, 1.0}},
        {"--repeat-penalty", {1e-3, 1e3}},
        {"--presence-penalty", {-LARGE, LARGE}},
        {"--frequency-penalty", {-LARGE, LARGE}},
        {"--dry-multiplier", {0.0, LARGE}},
        {"--dry-base", {0.0, LARGE}},
        {"--adaptive-target", {-1.0, 1.0}},
        {"--adaptive-decay", {0.0, 0.99}},
        {"--dynatemp-range", {0.0, LARGE}},
        {"--dynatemp-exp", {-LARGE, LARGE}},
        {"--mirostat-lr", {0.0, LARGE}},
        {"--mirostat-ent", {0.0, LARGE}},
        {"--rope-scale", {1e-6, LARGE}},
        {"--rope-freq-base", {0.0, FLT_MAX}},
        {"--rope-freq-scale", {0.0, LARGE}},
        {"--yarn-ext-factor", {-1.0, LARGE}},
        {"--yarn-attn-factor", {-1.0, LARGE}},
        {"--yarn-beta-slow", {-1.0, LARGE}},
        {"--yarn-beta-fast", {-1.0, LARGE}},
    };
    return flags;
}

// flags whose value llama.cpp reads as a whole number; all others of that kind have the range of int
const std::map<std::string, range> & whole_flags() {
    static const std::map<std::string, range> flags = {
        {"--seed", {-1.0, UINT32_MAX}}, // both ends draw one
        {"--cpu-strict", {0, 1}},
        {"--cpu-strict-batch", {0, 1}},
        {"--poll", {0, 100}},
        {"--poll-batch", {0, 100}},
        {"--gpu-layers", {INT_MIN, INT_MAX}},
        {"--predict", {-2, INT_MAX}},
        {"--top-k", {-1, INT_MAX}},
        {"--repeat-last-n", {-1, INT_MAX}},
        {"--dry-penalty-last-n", {-1, INT_MAX}},
        {"--dry-allowed-length", {0, INT_MAX}},
        {"--mirostat", {0, 2}},
    };
    return flags;
}

const range * find(const std::map<std::string, range> & flags, const common_arg & option) {
    for (const char * name : option.args) {
        if (const auto it = flags.find(name); it != flags.end()) {
            return &it->second;
        }
    }
    return nullptr;
}

std::string shown(double number) {
    char text[32];
    std::snprintf(text, sizeof(text), "%.10g", number);
    return text;
}

// whether a nonzero number is too small for a float
bool is_tiny(const std::string & text) {
    errno = 0;
    const double number = std::strtod(text.c_str(), nullptr);
    return std::abs(number) < FLT_MIN && (number != 0.0 || errno == ERANGE);
}

void check_float(const std::string & text, const range & allowed, const std::string & source) {
    char * end = nullptr;
    const double number = std::strtod(text.c_str(), &end);
    const bool whole_text = !text.empty() && !std::isspace((unsigned char)text[0]) && *end == '\0';
    if (!whole_text || !(number >= allowed.min && number <= allowed.max)) {
        throw usage_error(
            source + " is '" + text + "', expected a number from " + shown(allowed.min) + " to " + shown(allowed.max));
    }
}

// whether the value is a word that this numeric flag also accepts
bool is_word(const common_arg & option, const std::string & text) {
    return (text == "auto" || text == "all") && find({{"--gpu-layers", {}}}, option) != nullptr;
}

// Returns whether the value is a nonzero number that is too small for a float.
bool check_value(const common_arg & option, const std::string & text, const std::string & source) {
    if (const range * allowed = find(float_flags(), option)) {
        check_float(text, *allowed, source);
        return is_tiny(text);
    }
    const range * allowed = find(whole_flags(), option);
    if ((allowed || option.handler_int) && !is_word(option, text)) {
        const range any = {INT_MIN, INT_MAX};
        allowed = allowed ? allowed : &any;
        parse_whole(text, (long long)allowed->min, (long long)allowed->max, source);
    }
    return false;
}

} // namespace

long long parse_whole(const std::string & text, long long min, long long max, const std::string & source) {
    char * end = nullptr;
    errno = 0;
    const long long number = std::strtoll(text.c_str(), &end, 10);
    const bool whole_text = !text.empty() && !std::isspace((unsigned char)text[0]) && *end == '\0';
    if (!whole_text || errno == ERANGE || number < min || number > max) {
        throw usage_error(
            source + " is '" + text + "', expected a whole number from " + std::to_string(min) + " to " +
            std::to_string(max));
    }
    return number;
}

void check_numbers(std::vector<std::string> & args) {
    common_params scratch;
    const common_params_context parser = common_params_parser_init(scratch, LLAMA_EXAMPLE_COMPLETION);
    std::map<std::string, const common_arg *> by_name;
    for (const common_arg & option : parser.options) {
        for (const char * name : option.args) {
            by_name[name] = &option;
        }
        if (const char * value = option.env ? std::getenv(option.env) : nullptr) {
            if (check_value(option, value, option.env)) {
                throw usage_error(
                    std::string(option.env) + " is '" + value +
                    "', expected 0 or a number that is not too small for a float");
            }
        }
    }
    for (size_t i = 1; i < args.size(); ++i) {
        std::string name = args[i];
        if (name.compare(0, 2, "--") == 0) {
            std::replace(name.begin(), name.end(), '_', '-'); // as its parser does
        }
        const auto it = by_name.find(name);
        if (it == by_name.end() || !it->second->value_hint || i + 1 >= args.size()) {
            continue;
        }
        std::string & value = args[++i];
        if (check_value(*it->second, value, name)) {
            value = "0";
        }
        i += it->second->value_hint_2 ? 1 : 0;
    }
}

} // namespace metadeploy
