// Reads files of prompts: lines of text, JSON lines, a JSON array, or texts separated by NUL bytes.
#include "cli/option_keys.h"
#include "cli/prompts.h"
#include "cli/text_file.h"
#include "errors.h"
#include "parse_json.h"

#include <algorithm>
#include <cmath>

namespace metadeploy {

namespace {

using json = nlohmann::ordered_json;

constexpr char SPACE[] = " \t\r\n";

bool is_blank(const std::string & text) {
    return text.find_first_not_of(SPACE) == std::string::npos;
}

// Returns a discarded value if the text is not JSON; fault then says why.
json parse(const std::string & text, std::string & fault) {
    return parse_json(text, fault).value_or(json(json::value_t::discarded));
}

std::string as_text(const json & value) {
    const std::string text = dump_json(value);
    return text.size() <= 60 ? text : text.substr(0, 60) + " ...";
}

// --- one prompt ------------------------------------------------------------------------------------------------------

// Returns the content of a message: a text, or the text parts of OpenAI's API, joined.
std::string content_of(const json & message, const std::string & where) {
    const json & content = message["content"];
    if (content.is_string()) {
        return content;
    }
    std::string text;
    bool first = true;
    if (content.is_array() && !content.empty()) {
        for (const json & part : content) {
            if (!part.is_object() || part.value("type", json()) != "text" || !part.value("text", json()).is_string()) {
                throw error(where + ": a part of a message is " + as_text(part) + ", expected parts of type \"text\"");
            }
            text += (first ? "" : "\n") + part["text"].get<std::string>();
            first = false;
        }
        return text;
    }
    throw error(where + ": \"content\" of a message is " + as_text(content) + ", expected a text");
}

std::vector<chat_message> messages_of(const json & list, const std::string & where) {
    if (!list.is_array() || list.empty()) {
        throw error(
            where + ": \"messages\" is " + (list == json::array() ? "empty" : as_text(list)) +
            ", expected a list of at least one message");
    }
    std::vector<chat_message> messages;
    for (const json & message : list) {
        if (!message.is_object() || !message.contains("role") || !message.contains("content") ||
            !message["role"].is_string()) {
            throw error(where + ": a message needs the strings \"role\" and \"content\"");
        }
        for (const auto & [key, value] : message.items()) {
            if (key != "role" && key != "content" && !value.is_null() && !value.empty()) {
                throw error(
                    where + ": a message has the key " + as_text(key) + ", expected \"role\" and \"content\" alone");
            }
        }
        messages.push_back({message["role"], content_of(message, where)});
    }
    for (auto it = messages.rbegin(); it != messages.rend(); ++it) {
        if (it->role == "user") {
            if (is_blank(it->content)) {
                throw error(where + ": the last message of the user is empty, expected a text");
            }
            break;
        }
    }
    return messages;
}

// Makes an item from an object. Adds the keys that have no effect to unused.
prompt_item item_of_object(const json & object, const std::string & where, std::vector<std::string> & unused) {
    prompt_item item;
    std::string asked; // the key that holds the prompt
    for (const auto & [key, value] : object.items()) {
        const bool is_prompt = key == "prompt" || key == "question" || key == "messages";
        if (is_prompt && !value.is_null()) {
            if (!asked.empty()) {
                throw error(where + " has \"" + asked + "\" and \"" + key + "\", expected one of them");
            }
            asked = key;
        } else if (key == "id") {
            item.id = value;
        } else if (key == "gain") {
            if (!value.is_null() && (!value.is_number() || std::abs(value.get<double>()) >= 1e6)) {
                throw error(where + ": \"gain\" is " + as_text(value) + ", expected a number");
            }
            if (!value.is_null()) {
                item.gain = value.get<double>();
            }
        } else if (const std::string option = option_meant(key); !option.empty() && !value.is_null()) {
            throw error(
                where + " has the key " + as_text(key) +
                ", which looks like an option; \"gain\" is the only option that a prompt can set, "
                "expected a flag for all prompts (or rename the key, if it is only data)");
        } else if (std::find(unused.begin(), unused.end(), key) == unused.end()) {
            unused.push_back(key);
        }
    }
    if (asked.empty()) {
        throw error(where + " has none of \"prompt\", \"question\" and \"messages\"");
    }
    const json & value = object[asked];
    if (asked == "messages") {
        item.messages = messages_of(value, where);
        item.prompt = item.messages.back().content;
        return item;
    }
    if (!value.is_string()) {
        throw error(where + ": \"" + asked + "\" is " + as_text(value) + ", expected a text");
    }
    item.prompt = value;
    if (is_blank(item.prompt)) {
        throw error(where + ": \"" + asked + "\" is empty, expected a text");
    }
    return item;
}

prompt_item item_of(const json & value, const std::string & where, std::vector<std::string> & unused) {
    if (value.is_object()) {
        return item_of_object(value, where, unused);
    }
    if (!value.is_string()) {
        throw error(where + " is " + as_text(value) + ", expected a text or a JSON object");
    }
    prompt_item item{nullptr, value, {}};
    if (is_blank(item.prompt)) {
        throw error(where + " is empty, expected a text");
    }
    return item;
}

// --- a file ----------------------------------------------------------------------------------------------------------

std::vector<std::string> split(const std::string & text, char separator) {
    std::vector<std::string> parts;
    size_t first = 0;
    while (first <= text.size()) {
        const size_t end = text.find(separator, first);
        parts.push_back(text.substr(first, end == std::string::npos ? end : end - first));
        if (end == std::string::npos) {
            break;
        }
        first = end + 1;
    }
    return parts;
}

// converts line ends to "\n"
std::string with_newlines(const std::string & text) {
    std::string found;
    for (size_t i = 0; i < text.size(); ++i) {
        if (text[i] != '\r') {
            found += text[i];
        } else if (i + 1 == text.size() || text[i + 1] != '\n') {
            found += '\n';
        }
    }
    return found;
}

// Whether a text begins in a way that only JSON does: with "[" or "{", followed by a quotation mark or a bracket.
bool begins_as_json(const std::string & text) {
    const size_t first = text.find_first_not_of(SPACE);
    if (first == std::string::npos || (text[first] != '[' && text[first] != '{')) {
        return false;
    }
    const size_t next = text.find_first_not_of(SPACE, first + 1);
    return next == std::string::npos || std::string("\"[{]}").find(text[next]) != std::string::npos;
}

void read_array(const json & array, const std::string & subject, prompt_list & into) {
    for (size_t i = 0; i < array.size(); ++i) {
        into.items.push_back(item_of(array[i], subject + ", prompt " + std::to_string(i + 1), into.unused));
    }
}

struct numbered_line {
    std::string where;
    std::string text;
    json value; // discarded if it is not JSON
    std::string fault;
};

void read_lines(const std::string & text, const std::string & subject, prompt_list & into) {
    std::vector<numbered_line> lines;
    size_t number = 0;
    for (std::string & line : split(with_newlines(text), '\n')) {
        ++number;
        if (!is_blank(line)) {
            const std::string where = subject + ", line " + std::to_string(number);
            std::string fault;
            json value = parse(line, fault);
            lines.push_back({where, line, std::move(value), fault});
        }
    }
    const auto is_object = [](const numbered_line & line) { return line.value.is_object(); };
    const auto is_string = [](const numbered_line & line) { return line.value.is_string(); };
    const bool objects = !lines.empty() && (is_object(lines[0]) || begins_as_json(lines[0].text));
    const bool strings = std::all_of(lines.begin(), lines.end(), is_string);
    for (const numbered_line & line : lines) {
        if (objects && !is_object(line) && !is_string(line)) {
            throw error(
                line.where + " is not a JSON object " +
                (&line == &lines[0] ? "(but begins as one: expected a whole one in each line, or one JSON array)"
                                    : "(the first line of the file is, so each has to be)") +
                (line.fault.empty() ? "" : ": " + line.fault));
        }
        if (!objects && is_object(line)) {
            throw error(
                line.where + " is a JSON object and the first line of the file is text, expected one of the two");
        }
        into.items.push_back(
            objects || strings ? item_of(line.value, line.where, into.unused) : prompt_item{nullptr, line.text, {}});
    }
}

void read_texts_between_nul(const std::string & text, const std::string & subject, prompt_list & into) {
    std::vector<std::string> parts = split(text, '\0');
    if (is_blank(parts.back())) {
        parts.pop_back(); // the file ends with a separator
    }
    for (const std::string & part : parts) {
        if (is_blank(part)) {
            throw error(subject + ", prompt " + std::to_string(into.items.size() + 1) + " is empty, expected a text");
        }
        into.items.push_back({nullptr, part, {}});
    }
}

} // namespace

prompt_list read_prompts(const std::string & path, bool nul_separated) {
    const std::string subject = "prompts file '" + path + "'";
    const std::string text =
        check_text(read_bytes(path, subject), subject, nul_separated ? nul_bytes::allow : nul_bytes::refuse);
    prompt_list prompts;
    std::string fault;
    if (nul_separated) {
        read_texts_between_nul(text, subject, prompts);
    } else if (const json whole = parse(text, fault); whole.is_array()) {
        read_array(whole, subject, prompts);
    } else if (begins_as_json(text) && text[text.find_first_not_of(SPACE)] == '[') {
        throw error(subject + " begins as a JSON array but is not one, expected valid JSON: " + fault);
    } else {
        read_lines(text, subject, prompts);
    }
    if (prompts.items.empty()) {
        throw error(subject + " holds no prompt");
    }
    return prompts;
}

} // namespace metadeploy
