// Chat templates: Jinja text, rendered as transformers renders it, or one of llama.cpp's hard-coded templates.
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

// Variables of a template; values as JSON.
using template_variables = std::map<std::string, std::string>;

class chat_template {
public:
    // text: Jinja text, or the name of a template that llama.cpp has built in. use_jinja: false takes llama.cpp's
    // hard-coded template that resembles the text. special_tokens: bos_token and so on, as transformers names them.
    // Throws error where there is no such template, or the text is no Jinja, too long or nested too deeply.
    chat_template(const std::string & text, bool use_jinja, template_variables special_tokens = {});

    // A hard-coded template writes no BOS and knows no variables.
    bool built_in() const { return !program; }

    // The prompt up to where the answer begins, with BOS if the template writes it. The text of every message is in it,
    // but for the assistant's. cancel: asked now and then, may be empty; true ends this with cancelled_error. Throws
    // error where it cannot be done, or takes more than a template may (template_limits.h).
    std::string apply(
        const std::vector<chat_message> & messages,
        const template_variables & variables,
        const std::function<bool()> & cancel = nullptr) const;

private:
    // one way to hand the messages to the template
    struct attempt {
        const template_variables & variables;
        const std::function<bool()> & cancel;
        bool typed; // contents are lists of parts, as templates of models that see pictures expect
        std::vector<chat_message> messages;
        std::string text = {};
        std::string fault = {}; // none: the text is the prompt
    };

    void check_roles(const std::vector<chat_message> & messages) const;
    attempt make(attempt how) const;
    std::optional<std::string> probe(attempt how, const std::vector<size_t> & places) const;
    std::optional<size_t> left_out(const attempt & made) const;
    std::string render(const attempt & how) const;
    std::string render_jinja(const attempt & how) const;
    std::string render_built_in(const std::vector<chat_message> & messages) const;

    std::string source;                            // Jinja text, or what llama.cpp finds its hard-coded template by
    std::shared_ptr<const jinja::program> program; // none: hard-coded
    template_variables special_tokens;
};

} // namespace metadeploy
