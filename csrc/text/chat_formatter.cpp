#include "text/chat_formatter.h"

#include "errors.h"
#include "parse_json.h"

#include <nlohmann/json.hpp>

namespace metadeploy {

namespace {

using nlohmann::json;

template_variables special_tokens_of(const llama_vocab * vocab) {
    template_variables found;
    if (llama_vocab_type(vocab) == LLAMA_VOCAB_TYPE_NONE) {
        return found;
    }
    const std::pair<const char *, llama_token> tokens[] = {
        {"bos_token", llama_vocab_bos(vocab)},
        {"eos_token", llama_vocab_eos(vocab)},
        {"pad_token", llama_vocab_pad(vocab)},
        {"sep_token", llama_vocab_sep(vocab)},
        {"mask_token", llama_vocab_mask(vocab)}};
    for (const auto & [name, token] : tokens) {
        if (token != LLAMA_TOKEN_NULL) {
            found[name] = json(common_token_to_piece(vocab, token, /*special =*/true))
                              .dump(-1, ' ', false, json::error_handler_t::replace);
        }
    }
    return found;
}

std::string own_template(const llama_model * model) {
    for (const char * name : {(const char *)nullptr, "tool_use"}) {
        if (const char * text = llama_model_chat_template(model, name); text && *text) {
            return text;
        }
    }
    return "";
}

// Returns the values of --reasoning, --reasoning-effort and --reasoning-preserve under the names that templates use.
template_variables asked_variables(const common_params & params) {
    template_variables asked = params.default_template_kwargs;
    if (const auto it = asked.find("reasoning_effort"); it != asked.end()) {
        asked["reasoning_strength"] = it->second;
    }
    if (params.preserve_reasoning_specified) { // otherwise this is the default of llama.cpp's parser
        const bool preserve = asked["preserve_reasoning"] == "true";
        asked["preserve_thinking"] = preserve ? "true" : "false";
        for (const char * name : {"clear_thinking", "truncate_history_thinking", "drop_thinking"}) {
            asked[name] = preserve ? "false" : "true";
        }
    }
    asked.erase("preserve_reasoning");
    return asked;
}

} // namespace

prompt_settings prompt_settings::of(const sidecar & source) {
    prompt_settings settings;
    settings.answer_suffix = source.config.answer_suffix;
    if (source.config.chat_template_kwargs.empty()) {
        return settings;
    }
    std::string fault;
    const auto kwargs = parse_json(source.config.chat_template_kwargs, fault).value(); // an object: the reader checked
    for (const auto & [key, value] : kwargs.items()) {
        settings.kwargs[key] = value.dump();
    }
    return settings;
}

chat_formatter::chat_formatter(const llama_model * model, const common_params & params)
    : asked(asked_variables(params)) {
    const llama_vocab * vocab = llama_model_get_vocab(model);
    const bool has_vocab = llama_vocab_type(vocab) != LLAMA_VOCAB_TYPE_NONE;
    adds_bos = has_vocab && llama_vocab_get_add_bos(vocab);
    if (adds_bos && llama_vocab_bos(vocab) != LLAMA_TOKEN_NULL) {
        bos = common_token_to_piece(vocab, llama_vocab_bos(vocab), /*special =*/true);
    }
    const template_variables special_tokens = special_tokens_of(vocab);
    if (!params.chat_template.empty()) {
        tmpl.emplace(params.chat_template, params.use_jinja, special_tokens);
    } else if (const std::string own = own_template(model); !own.empty()) {
        try {
            tmpl.emplace(own, params.use_jinja, special_tokens);
        } catch (const error & e) { // reported later, because raw prompts need no template
            fault = std::string("the model's own ") + e.what();
        }
    }
}

chat_text chat_formatter::apply(
    const std::vector<chat_message> & messages,
    const prompt_settings & settings,
    const std::function<bool()> & cancel) const {
    if (!fault.empty()) {
        throw error(fault);
    }
    if (!tmpl) {
        throw error(
            "the model has no chat template (give one with --chat-template / chat_template, or use raw and write the "
            "prompt as the model was trained on it)");
    }
    std::vector<chat_message> edited = messages;
    if (!settings.answer_suffix.empty()) {
        for (auto it = edited.rbegin(); it != edited.rend(); ++it) {
            if (it->role == "user") {
                it->content += settings.answer_suffix;
                break;
            }
        }
    }
    template_variables variables = settings.kwargs;
    for (const auto & [name, value] : asked) {
        variables[name] = value;
    }
    std::string text = tmpl->apply(edited, variables, cancel);
    // As in transformers, BOS is added only if the template writes it. llama.cpp's own templates never write it.
    const bool written = !bos.empty() && text.compare(0, bos.size(), bos) == 0;
    if (written) {
        text.erase(0, bos.size());
    }
    return {text, written || (adds_bos && tmpl->built_in())};
}

} // namespace metadeploy
