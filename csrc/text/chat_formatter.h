// Makes the model's input text from a question or a conversation.
#pragma once

#include "sidecar/sidecar.h"
#include "text/chat_template.h"

#include "common.h"
#include "llama.h"

#include <optional>
#include <string>
#include <vector>

namespace metadeploy {

struct prompt_settings {
    std::string answer_suffix; // goes after the last user message
    template_variables kwargs;

    // the settings that the sidecar's wrapper was trained with
    static prompt_settings of(const sidecar & source);
};

// a conversation with the chat template applied
struct chat_text {
    std::string text;
    bool begins_with_bos; // BOS itself is not in the text
};

class chat_formatter {
public:
    // params: chat_template (Jinja text or a built-in name, empty for the model's own), use_jinja (false for
    // llama.cpp's hard-coded templates), and the user's variables, which override those of the settings. Throws error
    // if the user's template cannot be read.
    chat_formatter(const llama_model * model, const common_params & params);

    // false: the model brings no template and none was given
    bool has_template() const { return tmpl || !fault.empty(); }

    // Throws error if there is no template, or if it refuses the messages or leaves one out. cancel: see chat_template.
    chat_text apply(
        const std::vector<chat_message> & messages,
        const prompt_settings & settings,
        const std::function<bool()> & cancel) const;

private:
    std::optional<chat_template> tmpl;
    std::string fault; // why the model's own template cannot be read
    std::string bos;   // empty if the tokenizer adds none
    bool adds_bos;     // the tokenizer begins every text with it
    template_variables asked;
};

} // namespace metadeploy
