// From a question or a conversation to the text that the model sees, through llama.cpp's own chat templates.
#pragma once

#include "sidecar/sidecar.h"

#include "chat.h"
#include "llama.h"

#include <map>
#include <string>
#include <vector>

namespace metadeploy {

struct chat_message {
    std::string role;
    std::string content;
};

struct prompt_settings {
    std::string answer_suffix;                 // goes after the last user message
    std::map<std::string, std::string> kwargs; // variables of the template, values as JSON

    // what the sidecar's wrapper was trained with
    static prompt_settings of(const sidecar & source);
};

class chat_formatter {
public:
    // override_template: Jinja text or a built-in name, empty for the model's own. use_jinja: false for llama.cpp's
    // hard-coded templates. Throws error where the template cannot be read.
    chat_formatter(const llama_model * model, const std::string & override_template, bool use_jinja);

    // false: the model brings no template and none was given
    bool has_template() const { return explicit_template; }

    // Throws error where there is no template, or it refuses the messages.
    std::string apply(const std::vector<chat_message> & messages, const prompt_settings & settings) const;

private:
    common_chat_templates_ptr templates;
    const llama_vocab * vocab;
    bool use_jinja;
    bool explicit_template;
};

} // namespace metadeploy
