#include "text/chat_template.h"

#include "common/json.h"
#include "errors.h"
#include "text/template_limits.h"

#include "jinja/lexer.h"
#include "jinja/parser.h"
#include "jinja/runtime.h"
#include "llama.h"

#include <algorithm>
#include <cctype>
#include <filesystem>

namespace metadeploy {

namespace {

const std::vector<std::string> & built_in_names() {
    static const std::vector<std::string> names = [] {
        std::vector<const char *> found((size_t)llama_chat_builtin_templates(nullptr, 0));
        llama_chat_builtin_templates(found.data(), found.size());
        return std::vector<std::string>(found.begin(), found.end());
    }();
    return names;
}

bool contains(const std::string & text, const std::string & part) {
    return text.find(part) != std::string::npos;
}

bool is_jinja(const std::string & text) {
    return contains(text, "{{") || contains(text, "{%");
}

bool is_file(const std::string & text) {
    std::error_code ec;
    return text.size() < 4096 && !contains(text, std::string(1, '\0')) &&
           std::filesystem::is_regular_file(std::filesystem::u8path(text), ec);
}

std::string trimmed(const std::string & text) {
    const char * space = " \t\r\n";
    const size_t first = text.find_first_not_of(space);
    return first == std::string::npos ? "" : text.substr(first, text.find_last_not_of(space) - first + 1);
}

// the start of a text, enough for a user to recognize it
std::string recognizable(const std::string & text) {
    std::string start;
    for (const char c : text.substr(0, 60)) {
        start += std::iscntrl((unsigned char)c) ? '?' : c;
    }
    return "'" + start + (text.size() > 60 ? "…'" : "'");
}

[[noreturn]] void refuse_name(const std::string & text) {
    const std::string subject = "chat template " + recognizable(text);
    if (is_file(text)) {
        throw error(
            subject + ": is the path of a file, expected its content or a name (give the file with "
                      "--chat-template-file, in Python as a pathlib.Path)");
    }
    std::string names;
    for (const std::string & name : built_in_names()) {
        names += (names.empty() ? "" : ", ") + name;
    }
    throw error(
        subject + ": has neither {{ nor {% and is not a built-in template, expected Jinja text or one of: " + names);
}

// A word that templates do not change. A text no longer than this word may be in a prompt by chance.
const std::string PROBE = "metadeployprobe";

std::string probe_of(size_t i) {
    return PROBE + std::to_string(i) + "x"; // the "x" keeps one probe from being the start of another
}

// removes white space, which templates strip and insert
std::string without_space(const std::string & text) {
    std::string found;
    for (const char c : text) {
        if (!std::isspace((unsigned char)c)) {
            found += c;
        }
    }
    return found;
}

// More than ten times the longest real template in llama.cpp's sources (16 KiB).
constexpr size_t MAX_BYTES = 256 << 10;
// Tokens in one {{ }} or {% %}: a chain such as 1 + 1 + 1 makes a tree as deep as the chain is long. Real templates
// have up to 140.
constexpr size_t MAX_TOKENS = 4096;
// Units of template_limits. Parsing a real template takes up to 0.2 million. Rendering one message takes up to 0.6
// million, and 100 messages up to 150 million: the cost grows with the square of the number of messages.
constexpr int64_t PARSE_UNITS = 100000000;
constexpr int64_t RENDER_UNITS = 200000000;
constexpr int64_t UNITS_PER_MESSAGE = 20000000;
constexpr int64_t UNITS_PER_BYTE = 64;

int64_t render_units(const std::vector<chat_message> & messages) {
    int64_t units = RENDER_UNITS;
    for (const chat_message & message : messages) {
        units += UNITS_PER_MESSAGE + UNITS_PER_BYTE * (int64_t)message.content.size();
    }
    return units;
}

size_t longest_statement(const std::vector<jinja::token> & tokens) {
    size_t longest = 0;
    size_t n = 0;
    for (const jinja::token & token : tokens) {
        const bool opens = token.t == jinja::token::open_statement || token.t == jinja::token::open_expression;
        n = opens ? 0 : n + 1;
        longest = std::max(longest, n);
    }
    return longest;
}

std::shared_ptr<const jinja::program> parse(const std::string & source) {
    if (source.size() > MAX_BYTES) {
        throw error(
            "chat template: has " + std::to_string(source.size()) + " bytes, expected at most " +
            std::to_string(MAX_BYTES) + " (give another with --chat-template / chat_template, or use raw)");
    }
    const template_limits limits(PARSE_UNITS);
    try {
        jinja::lexer lexer;
        const jinja::lexer_result found = lexer.tokenize(source);
        if (longest_statement(found.tokens) > MAX_TOKENS) {
            throw template_limit_error(
                "chat template: it is nested too deeply, or it has a statement of more than " +
                std::to_string(MAX_TOKENS) +
                " words and signs (give another with --chat-template / chat_template, or "
                "use raw)");
        }
        return std::make_shared<const jinja::program>(jinja::parse_from_tokens(found));
    } catch (const template_limit_error &) {
        throw;
    } catch (const std::exception & e) {
        limits.check();
        throw error(
            std::string(
                "chat template: not valid Jinja (give another with --chat-template / chat_template, or use "
                "raw): ") +
            e.what());
    }
}

std::string lower(std::string text) {
    std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return (char)std::tolower(c); });
    return text;
}

} // namespace

chat_template::chat_template(const std::string & text, bool use_jinja, template_variables special_tokens)
    : special_tokens(std::move(special_tokens)) {
    const std::vector<std::string> & names = built_in_names();
    const std::string name = trimmed(text);
    if (std::find(names.begin(), names.end(), name) != names.end()) {
        source = name;
        return;
    }
    if (!is_jinja(text)) {
        refuse_name(name);
    }
    source = text.compare(0, 3, "\xEF\xBB\xBF") == 0 ? text.substr(3) : text; // the byte-order mark of Windows
    if (!use_jinja) {
        const llama_chat_message probe{"user", "x"};
        if (llama_chat_apply_template(source.c_str(), &probe, 1, true, nullptr, 0) < 0) {
            throw error("chat template: llama.cpp has no hard-coded template that resembles it (leave out --no-jinja)");
        }
        return;
    }
    program = parse(source);
}

// --- rendering -------------------------------------------------------------------------------------------------------

std::string chat_template::render(const attempt & how) const {
    if (built_in()) {
        return render_built_in(how.messages);
    }
    const template_limits limits(render_units(how.messages), how.cancel);
    try {
        std::string text = render_jinja(how);
        limits.check();
        return text;
    } catch (const std::exception &) {
        limits.check();
        throw;
    }
}

// Defines the same variables as transformers: no date, and enable_thinking only if the user or the sidecar sets it.
std::string chat_template::render_jinja(const attempt & how) const {
    common_json globals = common_json::object();
    globals["tools"] = nullptr;
    globals["documents"] = nullptr;
    for (const template_variables * list : {&special_tokens, &how.variables}) {
        for (const auto & [name, value] : *list) {
            globals[name] = common_json::parse(value);
        }
    }
    common_json messages = common_json::array();
    for (const chat_message & message : how.messages) {
        common_json each = {{"role", message.role}, {"content", message.content}};
        if (how.typed) {
            each["content"] = common_json::array({common_json{{"type", "text"}, {"text", message.content}}});
        }
        messages.push_back(each);
    }
    globals["messages"] = messages;
    globals["add_generation_prompt"] = true;

    jinja::context context(source);
    jinja::global_from_json(context, globals, /*mark_input =*/false);
    jinja::runtime runtime(context);
    return jinja::runtime::gather_string_parts(runtime.execute(*program))->as_string().str();
}

std::string chat_template::render_built_in(const std::vector<chat_message> & messages) const {
    std::vector<llama_chat_message> list;
    for (const chat_message & message : messages) {
        list.push_back({message.role.c_str(), message.content.c_str()});
    }
    std::string text;
    const auto apply = [&] {
        const int32_t n = llama_chat_apply_template(
            source.c_str(), list.data(), list.size(), true, text.data(), (int32_t)text.size());
        if (n < 0) {
            throw error("llama.cpp's hard-coded template cannot be applied");
        }
        return (size_t)n;
    };
    text.resize(apply() + 1); // strncpy appends a NUL
    text.resize(apply());
    return text;
}

// --- whether the prompt has every message ----------------------------------------------------------------------------

// Renders the prompt with a probe as the text of the messages at these places. Returns it in lower case and without
// white space. None if the template throws, for example because it needs something in the contents.
std::optional<std::string> chat_template::probe(attempt how, const std::vector<size_t> & places) const {
    for (const size_t i : places) {
        how.messages[i].content = probe_of(i);
    }
    try {
        return lower(without_space(render(how)));
    } catch (const cancelled_error &) {
        throw;
    } catch (const std::exception &) {
        return std::nullopt;
    }
}

// Templates strip contents, escape them and break them into lines. So this function looks for each text without its
// white space. If a text is not found, or is so short that it may be there by chance, the function looks for a probe in
// its place. One more rendering has the probes of all such messages.
std::optional<size_t> chat_template::left_out(const attempt & made) const {
    const std::string bare_text = without_space(made.text);
    std::vector<size_t> unsure;
    for (size_t i = 0; i < made.messages.size(); ++i) {
        const std::string bare = without_space(made.messages[i].content);
        const bool found = bare.size() > PROBE.size() && contains(bare_text, bare);
        if (made.messages[i].role != "assistant" && !found) {
            unsure.push_back(i);
        }
    }
    const std::optional<std::string> together = unsure.empty() ? std::nullopt : probe(made, unsure);
    for (const size_t i : unsure) {
        const std::optional<std::string> probed = together ? together : probe(made, {i});
        const bool found =
            probed ? contains(*probed, probe_of(i)) : contains(bare_text, without_space(made.messages[i].content));
        if (!found) {
            return i;
        }
    }
    return std::nullopt;
}

chat_template::attempt chat_template::make(attempt how) const {
    try {
        how.text = render(how);
    } catch (const template_limit_error &) {
        throw;
    } catch (const cancelled_error &) {
        throw;
    } catch (const std::exception & e) {
        how.fault =
            std::string(e.what()) + " (the template refuses this conversation; raw mode takes the text as it is)";
        return how;
    }
    if (const std::optional<size_t> i = left_out(how)) {
        const chat_message & message = how.messages[*i];
        how.fault = "leaves out message " + std::to_string(*i) + " (role " + message.role + "), " +
                    recognizable(message.content) + ": the prompt is " + recognizable(how.text) +
                    ", expected that text in it (is it the template of this model?)";
    }
    return how;
}

void chat_template::check_roles(const std::vector<chat_message> & messages) const {
    static const char * const KNOWN[] = {"system", "user", "assistant", "developer", "tool", "function"};
    for (size_t i = 0; i < messages.size(); ++i) {
        const std::string & role = messages[i].role;
        const bool known = std::find(std::begin(KNOWN), std::end(KNOWN), role) != std::end(KNOWN);
        if (!known && (built_in() || !(contains(source, "'" + role + "'") || contains(source, '"' + role + '"')))) {
            throw error(
                "message " + std::to_string(i) + " of the conversation has the role " + recognizable(role) +
                ", which the chat template does not know, expected system, user or assistant");
        }
    }
}

std::string chat_template::apply(
    const std::vector<chat_message> & given,
    const template_variables & variables,
    const std::function<bool()> & cancel) const {
    check_roles(given);
    std::vector<chat_message> messages = given;
    for (chat_message & message : messages) {
        if (message.role == "developer" && (built_in() || !contains(source, "developer"))) {
            message.role = "system"; // "developer" is its newer name in OpenAI's API
        }
    }
    const attempt plain = make({variables, cancel, false, messages});
    if (plain.fault.empty()) {
        return plain.text;
    }
    if (!built_in()) {
        const attempt typed = make({variables, cancel, true, messages});
        if (typed.fault.empty()) {
            return typed.text;
        }
    }
    if (messages.size() > 1 && messages[0].role == "system" && messages[1].role == "user") {
        // The template may not support system messages: the system message then goes before the user's text.
        messages[1].content = messages[0].content + "\n" + messages[1].content;
        messages.erase(messages.begin());
        const attempt merged = make({variables, cancel, false, messages});
        if (merged.fault.empty()) {
            return merged.text;
        }
    }
    throw error("chat template: " + plain.fault);
}

} // namespace metadeploy
