#include "runtime/prompt.h"

#include "errors.h"

#include <nlohmann/json.hpp>

namespace metadeploy {

prompt_settings prompt_settings::of(const sidecar & source) {
    prompt_settings settings;
    settings.answer_suffix = source.config.answer_suffix;
    if (source.config.chat_template_kwargs.empty()) {
        return settings;
    }
    const auto kwargs =
        nlohmann::json::parse(source.config.chat_template_kwargs); // an object, the reader has seen to it
    for (const auto & [key, value] : kwargs.items()) {
        settings.kwargs[key] = value.dump();
    }
    return settings;
}

chat_formatter::chat_formatter(const llama_model * model, const std::string & override_template, bool use_jinja)
    : vocab(llama_model_get_vocab(model)), use_jinja(use_jinja) {
    try {
        templates = common_chat_templates_init(model, override_template);
    } catch (const std::exception & e) {
        const std::string what = e.what(); // some of the parser's errors have no text of their own
        throw error(
            "chat template: " + (what == "std::exception" ? "not valid Jinja" : what) +
            " (give another with --chat-template, or use raw)");
    }
    explicit_template = common_chat_templates_was_explicit(templates.get());
}

std::string chat_formatter::apply(const std::vector<chat_message> & messages, const prompt_settings & settings) const {
    if (!explicit_template) {
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
    common_chat_templates_inputs inputs;
    for (const chat_message & message : edited) {
        common_chat_msg msg;
        msg.role = message.role;
        msg.content = message.content;
        inputs.messages.push_back(msg);
    }
    inputs.use_jinja = use_jinja;
    // the tokenizer adds these itself: without the flags a template that writes them would have them twice
    inputs.add_bos = llama_vocab_get_add_bos(vocab);
    inputs.add_eos = llama_vocab_get_add_eos(vocab);
    inputs.chat_template_kwargs = settings.kwargs;
    if (const auto it = settings.kwargs.find("enable_thinking"); it != settings.kwargs.end()) {
        inputs.enable_thinking = it->second == "true";
    }
    try {
        return common_chat_templates_apply(templates.get(), inputs).prompt;
    } catch (const std::exception & e) {
        throw error(
            std::string("chat template: ") + e.what() +
            " (the template refuses this conversation; raw mode takes the text as it is)");
    }
}

} // namespace metadeploy
