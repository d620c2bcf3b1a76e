#include "cli/settings.h"

#include "build-info.h"
#include "cli/output.h"
#include "files.h"

#include "llama.h"
#include "sampling.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

namespace metadeploy {

namespace {

using json = nlohmann::ordered_json;

// the shortest decimal number with this value as a float: 0.05, not 0.05000000074505806
double number(float value) {
    char text[32];
    for (int digits = 6; digits <= 9; ++digits) {
        std::snprintf(text, sizeof(text), "%.*g", digits, (double)value);
        if (std::strtof(text, nullptr) == value) {
            break;
        }
    }
    return std::strtod(text, nullptr);
}

json file_identity(const std::vector<std::string> & parts) {
    std::string digests;
    for (const std::string & part : parts) {
        digests += content_digest(part);
    }
    const std::string name = std::filesystem::u8path(parts[0]).filename().u8string();
    return {{"name", name}, {"xxh128", parts.size() == 1 ? digests : text_digest(digests)}};
}

// lists the files of a split model; "model-00001-of-00003.gguf" is the first of three
std::vector<std::string> parts_of(const std::string & path) {
    const size_t tail = sizeof("-00001-of-00003.gguf") - 1;
    int first = 0;
    int count = 0;
    if (path.size() <= tail ||
        std::sscanf(path.c_str() + path.size() - tail, "-%05d-of-%05d.gguf", &first, &count) != 2) {
        return {path};
    }
    std::vector<char> prefix(path.size() + 1);
    std::vector<char> part(path.size() + 1);
    std::vector<std::string> parts;
    if (llama_split_prefix(prefix.data(), prefix.size(), path.c_str(), first - 1, count) > 0) {
        for (int i = 0; i < count; ++i) {
            llama_split_path(part.data(), part.size(), prefix.data(), i, count);
            parts.emplace_back(part.data());
        }
    }
    return parts.empty() ? std::vector<std::string>{path} : parts;
}

json sampling_of(const common_params_sampling & s) {
    std::string samplers;
    for (const common_sampler_type type : s.samplers) {
        samplers += (samplers.empty() ? "" : ";") + common_sampler_type_to_str(type);
    }
    json biases = json::array();
    for (const llama_logit_bias & bias : s.logit_bias) {
        biases.push_back({bias.token, std::to_string(bias.bias)}); // as text, because the bias may be infinite
    }
    return {
        {"--seed", s.seed},
        {"--temp", number(s.temp)},
        {"--top-k", s.top_k},
        {"--top-p", number(s.top_p)},
        {"--min-p", number(s.min_p)},
        {"--typical", number(s.typ_p)},
        {"--top-nsigma", number(s.top_n_sigma)},
        {"--xtc-probability", number(s.xtc_probability)},
        {"--xtc-threshold", number(s.xtc_threshold)},
        {"--dynatemp-range", number(s.dynatemp_range)},
        {"--dynatemp-exp", number(s.dynatemp_exponent)},
        {"--repeat-last-n", s.penalty_last_n},
        {"--repeat-penalty", number(s.penalty_repeat)},
        {"--frequency-penalty", number(s.penalty_freq)},
        {"--presence-penalty", number(s.penalty_present)},
        {"--dry-multiplier", number(s.dry_multiplier)},
        {"--dry-base", number(s.dry_base)},
        {"--dry-allowed-length", s.dry_allowed_length},
        {"--dry-penalty-last-n", s.dry_penalty_last_n},
        {"--dry-sequence-breaker", s.dry_sequence_breakers},
        {"--adaptive-target", number(s.adaptive_target)},
        {"--adaptive-decay", number(s.adaptive_decay)},
        {"--mirostat", s.mirostat},
        {"--mirostat-lr", number(s.mirostat_eta)},
        {"--mirostat-ent", number(s.mirostat_tau)},
        {"--min-keep", s.min_keep},
        {"--samplers", samplers},
        {"--ignore-eos", s.ignore_eos},
        {"--logit-bias", biases},
        {"--grammar", s.grammar.grammar}};
}

json model_of(const common_params & common) {
    json overrides = json::array();
    for (const llama_model_kv_override & each : common.kv_overrides) {
        if (each.key[0] != '\0') { // the last one ends the list
            const std::string value = each.tag == LLAMA_KV_OVERRIDE_TYPE_STR     ? each.val_str
                                      : each.tag == LLAMA_KV_OVERRIDE_TYPE_FLOAT ? std::to_string(each.val_f64)
                                      : each.tag == LLAMA_KV_OVERRIDE_TYPE_BOOL  ? std::to_string(each.val_bool)
                                                                                 : std::to_string(each.val_i64);
            overrides.push_back(each.key + ("=" + value));
        }
    }
    json adapters = json::array();
    for (const common_adapter_lora_info & each : common.lora_adapters) {
        adapters.push_back({file_identity({each.path}), number(each.scale)});
    }
    json vectors = json::array();
    for (const common_control_vector_load_info & each : common.control_vectors) {
        vectors.push_back({file_identity({each.fname}), number(each.strength)});
    }
    return {
        {"-m", file_identity(parts_of(common.model.path))},
        {"--override-kv", overrides},
        {"--lora", adapters},
        {"--control-vector", vectors},
        {"--control-vector-layer-range", {common.control_vector_layer_start, common.control_vector_layer_end}},
        {"-c", common.n_ctx},
        {"-ctk", ggml_type_name(common.cache_type_k)},
        {"-ctv", ggml_type_name(common.cache_type_v)},
        {"-fa", llama_flash_attn_type_name(common.flash_attn_type)},
        {"--swa-full", common.swa_full},
        {"--rope-scaling", (int)common.rope_scaling_type},
        {"--rope-freq-base", number(common.rope_freq_base)},
        {"--rope-freq-scale", number(common.rope_freq_scale)},
        {"--yarn-orig-ctx", common.yarn_orig_ctx},
        {"--yarn-ext-factor", number(common.yarn_ext_factor)},
        {"--yarn-attn-factor", number(common.yarn_attn_factor)},
        {"--yarn-beta-slow", number(common.yarn_beta_slow)},
        {"--yarn-beta-fast", number(common.yarn_beta_fast)}};
}

// settings without file names, because files may be renamed
json without_names(const json & value) {
    if (value.is_object() && value.contains("xxh128")) {
        return value["xxh128"];
    }
    if (!value.is_structured()) {
        return value;
    }
    json result = value;
    for (json & part : result) {
        part = without_names(part);
    }
    return result;
}

std::string shown(const json & value) {
    return value.is_null()                               ? "not given"
           : value.is_object() && value.contains("name") ? dump_json(value["name"])
                                                         : dump_json(value);
}

} // namespace

json settings_of(const cli_args & args) {
    const common_params & common = args.common;
    json settings = {{"program", llama_commit()}};
    if (!args.no_meta) { // the base alone does not use these
        settings["--meta"] = file_identity({args.meta});
        settings["--meta-gain"] = args.gain;
        settings["--doubt-threshold"] = args.doubt_threshold;
        const verdict_policy & policy = args.policy;
        if (policy.is_set()) { // older results lack these keys
            settings["--max-error"] = policy.max_error ? json(*policy.max_error) : json();
            settings["--max-p-wrong"] = policy.max_p_wrong ? json(*policy.max_p_wrong) : json();
            settings["--on-doubt"] = policy.withhold ? "withhold" : "flag";
        }
        json schedule = to_json(args.schedule);
        if (schedule.is_null()) {
            schedule = json::object(); // static
        }
        for (const char * mode : {"decay", "window", "refresh"}) {
            settings[std::string("--meta-") + mode] = schedule.value(mode, json());
        }
        settings["--meta-goal"] = args.goal;
        settings["--refusal-text"] = args.refusal_text;
        settings["--compare"] = args.compare;
    }
    settings.update({
        {"-n", common.n_predict},
        {"--raw", args.raw},
        {"-sys", common.system_prompt},
        {"--chat-template", common.chat_template},
        {"--jinja", common.use_jinja},
        {"--reasoning", common.enable_reasoning},
        {"--chat-template-kwargs", common.default_template_kwargs},
        {"-r", common.antiprompt},
    });
    settings.update(sampling_of(common.sampling));
    settings.update(model_of(common));
    return json::parse(dump_json(settings)); // the form in which a file returns it
}

std::vector<std::string> settings_faults(const json & before, const json & now) {
    std::vector<std::string> faults;
    const auto compare = [&](const std::string & key) {
        const json was = before.value(key, json());
        const json is = now.value(key, json());
        if (without_names(was) == without_names(is)) {
            return;
        }
        const bool same_name = shown(was) == shown(is);
        faults.push_back(
            key +
            (same_name ? " was another file with the name " + shown(was) : " was " + shown(was) + ", is " + shown(is)));
    };
    for (const auto & [key, value] : now.items()) {
        compare(key);
    }
    for (const auto & [key, value] : before.items()) {
        if (!now.contains(key)) {
            compare(key);
        }
    }
    return faults;
}

std::string run_id(const json & settings, const prompt_item & item) {
    json own = {{"prompt", item.prompt}, {"messages", json::array()}};
    for (const chat_message & message : item.messages) {
        own["messages"].push_back({message.role, message.content});
    }
    own["gain"] = item.gain ? json(*item.gain) : json();
    return text_digest(dump_json(without_names(settings)) + dump_json(own));
}

} // namespace metadeploy
