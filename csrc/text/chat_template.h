// Chat templates: Jinja text, rendered as in transformers, or one of llama.cpp's hard-coded templates.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace jinja {
struct program;
}

namespace metadeploy {

struct chat_message {
    std::string role;
    std::string content;
};

// Variables of a template. The values are JSON.
using template_variables = std::map<std::string, std::string>;

class chat_template {
public:
    // text: Jinja text, or the name of a template that is built into llama.cpp. use_jinja: false selects the hard-coded
    // template of llama.cpp that resembles the text. special_tokens: bos_token and so on, with the names of
    // transformers. Throws error if there is no such template, or if the text is not Jinja, too long or nested too
    // deeply.
    chat_template(const std::string & text, bool use_jinja, template_variables special_tokens = {});

    // A hard-coded template does not write BOS and ignores variables.
    bool built_in() const { return !program; }

    // Returns the prompt up to the start of the answer, with BOS if the template writes it. It contains the text of
    // every message, except possibly those of the assistant. cancel: called now and then, may be empty; if it returns
    // true, this throws cancelled_error. Throws error if the template fails or exceeds its limits (template_limits.h).
    std::string apply(
        const std::vector<chat_message> & messages,
        const template_variables & variables,
        const std::function<bool()> & cancel = nullptr) const;

private:
    // one way to hand the messages to the template
    struct attempt {
        const template_variables & variables;
        const std::function<bool()> & cancel;
        bool typed; // contents are lists of parts, as templates of vision models expect
        std::vector<chat_message> messages;
        std::string text = {};
        std::string fault = {}; // empty: the text is the prompt
    };

    void check_roles(const std::vector<chat_message> & messages) const;
    attempt make(attempt how) const;
    std::optional<std::string> probe(attempt how, const std::vector<size_t> & places) const;
    std::optional<size_t> left_out(const attempt & made) const;
    std::string render(const attempt & how) const;
    std::string render_jinja(const attempt & how) const;
    std::string render_built_in(const std::vector<chat_message> & messages) const;

    std::string source; // Jinja text, or the text or name by which llama.cpp finds a hard-coded one
    std::shared_ptr<const jinja::program> program; // null for a hard-coded template
    template_variables special_tokens;
};

} // namespace metadeploy
