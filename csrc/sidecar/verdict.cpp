#include "sidecar/verdict.h"

#include "errors.h"
#include "sidecar/keys.h"
#include "sidecar/rules.h"

#include <algorithm>
#include <cmath>

namespace metadeploy {

namespace {

constexpr char HIDDEN_WEIGHT[] = "verdict.hidden.weight";

std::string figure_list() {
    std::string list;
    for (const char * name : FIGURE_NAMES) {
        list += (list.empty() ? "" : ",") + std::string(name);
    }
    return list;
}

bool has_head(const metadata & meta, const tensor_shapes & shapes) {
    const auto it = shapes.lower_bound("verdict.");
    return meta.has(keys::VERDICT_VERSION) || (it != shapes.end() && it->first.compare(0, 8, "verdict.") == 0);
}

class verdict_reader {
public:
    // n_blocks: of the base; 0 if it is not known
    verdict_reader(const metadata & meta, int64_t n_blocks, std::vector<std::string> & faults)
        : meta(meta), n_blocks(n_blocks), faults(faults) {}

    bool version_is_known() {
        const std::optional<int64_t> version = meta.integer(keys::VERDICT_VERSION);
        if (!version && !meta.has(keys::VERDICT_VERSION)) {
            fault(keys::VERDICT_VERSION, "is missing, but there are tensors of a verdict head");
        } else if (version && *version != VERDICT_VERSION) {
            fault(
                keys::VERDICT_VERSION, "is " + std::to_string(*version) + ", expected " +
                                           std::to_string(VERDICT_VERSION) + " (hint: update metadeploy)");
        }
        return version == VERDICT_VERSION;
    }

    verdict_head read() {
        verdict_head head;
        head.prompt_layers = layers(keys::VERDICT_PROMPT_LAYERS);
        head.answer_layers = layers(keys::VERDICT_ANSWER_LAYERS);
        if (head.prompt_layers.size() + head.answer_layers.size() == 0) {
            fault(keys::VERDICT_ANSWER_LAYERS, "names no layers, expected at least one");
        }
        const std::string figures = meta.text(keys::VERDICT_FIGURES).value_or("");
        if (figures != figure_list()) {
            fault(keys::VERDICT_FIGURES, "is '" + shown(figures) + "', expected '" + figure_list() + "'");
        }
        const std::string window = meta.text(keys::VERDICT_WINDOW).value_or("first_sentence");
        head.whole_answer = window == "answer";
        if (!head.whole_answer && window != "first_sentence") {
            fault(keys::VERDICT_WINDOW, "is '" + shown(window) + "', expected one of first_sentence, answer");
        }
        head.slope = calibration(keys::VERDICT_SLOPE, 1.0f);
        head.intercept = calibration(keys::VERDICT_INTERCEPT, 0.0f);
        read_guarantees(head);
        return head;
    }

private:
    void fault(const char * key, const std::string & what) { faults.push_back("key '" + meta.name(key) + "' " + what); }

    std::vector<int32_t> layers(const char * key) {
        std::vector<int32_t> list = meta.layers(key).value_or(std::vector<int32_t>());
        if ((int64_t)list.size() > MAX_VERDICT_LAYERS) {
            fault(
                key, "has " + std::to_string(list.size()) + " entries, expected at most " +
                         std::to_string(MAX_VERDICT_LAYERS));
            list.clear();
        }
        for (const int32_t il : list) {
            if (n_blocks != 0 && il >= n_blocks) {
                fault(
                    key,
                    "has layer " + std::to_string(il) + ", expected layers from 0 to " + std::to_string(n_blocks - 1));
                break;
            }
        }
        return list;
    }

    float calibration(const char * key, float default_value) {
        const float value = meta.number(key).value_or(default_value);
        if (!(std::fabs(value) <= MAX_CALIBRATION)) { // not true of NaN either
            fault(key, "is " + std::to_string(value) + ", expected -1000 to 1000");
        }
        return value;
    }

    void read_guarantees(verdict_head & head) {
        const std::vector<float> max_errors = rates(keys::VERDICT_MAX_ERRORS);
        const std::vector<float> thresholds = rates(keys::VERDICT_THRESHOLDS);
        const std::vector<float> coverages = rates(keys::VERDICT_COVERAGES);
        head.delta = meta.number(keys::VERDICT_DELTA).value_or(0.0f);
        if (!is_rate(head.delta)) {
            fault(keys::VERDICT_DELTA, "is " + std::to_string(head.delta) + ", expected 0 to 1");
        }
        (void)meta.integer(keys::VERDICT_N);
        (void)meta.text(keys::VERDICT_QUESTIONS);
        (void)meta.text(keys::VERDICT_BASE_SHA256);
        if (thresholds.size() != max_errors.size() || coverages.size() != max_errors.size()) {
            fault(
                keys::VERDICT_MAX_ERRORS, "has " + std::to_string(max_errors.size()) + " entries for " +
                                              std::to_string(thresholds.size()) + " thresholds and " +
                                              std::to_string(coverages.size()) + " coverages, expected as many");
            return;
        }
        for (size_t i = 0; i < max_errors.size(); ++i) {
            head.guarantees.push_back({max_errors[i], thresholds[i], coverages[i]});
        }
        if (!std::is_sorted(max_errors.begin(), max_errors.end())) {
            fault(keys::VERDICT_MAX_ERRORS, "is not in ascending order");
        }
    }

    static bool is_rate(float value) { return value >= 0.0f && value <= 1.0f; } // not true of NaN

    std::vector<float> rates(const char * key) {
        std::vector<float> values = meta.numbers(key).value_or(std::vector<float>());
        if ((int64_t)values.size() > MAX_GUARANTEES) {
            fault(
                key, "has " + std::to_string(values.size()) + " entries, expected at most " +
                         std::to_string(MAX_GUARANTEES));
            return {};
        }
        const auto odd = std::find_if_not(values.begin(), values.end(), is_rate);
        if (odd != values.end()) {
            fault(key, "has " + std::to_string(*odd) + ", expected rates from 0 to 1");
        }
        return values;
    }

    const metadata & meta;
    const int64_t n_blocks;
    std::vector<std::string> & faults;
};

} // namespace

int64_t n_verdict_inputs(const verdict_head & head) {
    return (int64_t)(head.prompt_layers.size() + head.answer_layers.size()) * head.n_embd +
           (int64_t)FIGURE_NAMES.size();
}

std::optional<verdict_head> read_verdict(
    const metadata & meta,
    const tensor_shapes & shapes,
    const wrapper_config & config,
    std::vector<std::string> & faults) {
    if (!has_head(meta, shapes)) {
        return std::nullopt;
    }
    verdict_reader reader(meta, config.base_block_count, faults);
    if (!reader.version_is_known()) {
        return std::nullopt;
    }
    verdict_head head = reader.read();
    head.n_embd = config.n_embd;
    const auto it = shapes.find(HIDDEN_WEIGHT);
    if (it == shapes.end()) {
        faults.push_back(std::string("tensor '") + HIDDEN_WEIGHT + "' is missing");
        return std::nullopt;
    }
    // a file without outer dimensions of 1 has one hidden unit
    head.n_hidden = it->second.size() < 2 ? 1 : it->second.front();
    if (head.n_hidden > MAX_VERDICT_HIDDEN) {
        faults.push_back(
            "the tensors say that the verdict head has " + std::to_string(head.n_hidden) +
            " hidden units, expected at most " + std::to_string(MAX_VERDICT_HIDDEN));
        return std::nullopt;
    }
    return head;
}

tensor_shapes verdict_tensors(const verdict_head & head) {
    const int64_t n_inputs = n_verdict_inputs(head);
    return {
        {"verdict.input.mean", {n_inputs}},
        {"verdict.input.scale", {n_inputs}},
        {HIDDEN_WEIGHT, {head.n_hidden, n_inputs}},
        {"verdict.hidden.bias", {head.n_hidden}},
        {"verdict.output.weight", {1, head.n_hidden}},
        {"verdict.output.bias", {1}},
    };
}

void take_verdict_weights(sidecar & source) {
    verdict_head & head = *source.verdict;
    const auto values = [&](const char * name) {
        const float_view data = source.tensors.at(name).data;
        source.tensors.erase(name);
        return std::vector<float>(data.begin(), data.end());
    };
    head.mean = values("verdict.input.mean");
    head.scale = values("verdict.input.scale");
    head.hidden_weight = values(HIDDEN_WEIGHT);
    head.hidden_bias = values("verdict.hidden.bias");
    head.output_weight = values("verdict.output.weight");
    head.output_bias = values("verdict.output.bias").front();
}

} // namespace metadeploy
