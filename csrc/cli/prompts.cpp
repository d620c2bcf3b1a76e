#include "cli/prompts.h"

#include "errors.h"

#include <filesystem>
#include <fstream>
#include <iterator>

namespace metadeploy {

namespace {

using json = nlohmann::ordered_json;

std::string read_file(const std::string & path) {
    std::ifstream file(std::filesystem::u8path(path), std::ios::binary);
    if (!file) {
        throw error("prompts file '" + path + "' cannot be opened");
    }
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// a text as it comes back from a line of results, where it may have had to be mended
std::string as_result(const std::string & text) {
    return json::parse(dump_json(text)).get<std::string>();
}

prompt_item parse_json_line(const std::string & line, const std::string & where) {
    const json value = json::parse(line, nullptr, /*allow_exceptions =*/false);
    if (!value.is_object()) {
        throw error(where + " is not a JSON object (the first line of the file is, so each has to be)");
    }
    prompt_item item;
    if (value.contains("id")) {
        item.id = value["id"];
    }
    if (value.contains("gain")) {
        if (!value["gain"].is_number()) {
            throw error(where + ": \"gain\" is " + dump_json(value["gain"]) + ", expected a number");
        }
        item.gain = value["gain"].get<double>();
    }
    if (value.contains("messages")) {
        for (const json & message : value["messages"]) {
            if (!message.is_object() || !message.contains("role") || !message.contains("content") ||
                !message["role"].is_string() || !message["content"].is_string()) {
                throw error(where + ": a message needs the strings \"role\" and \"content\"");
            }
            item.messages.push_back({message["role"], message["content"]});
        }
        if (item.messages.empty()) {
            throw error(where + ": \"messages\" is empty, expected at least one");
        }
        item.prompt = item.messages.back().content;
        return item;
    }
    for (const char * key : {"prompt", "question"}) {
        if (value.contains(key) && value[key].is_string()) {
            item.prompt = value[key];
            return item;
        }
    }
    throw error(where + " has none of \"prompt\", \"question\" and \"messages\"");
}

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

} // namespace

std::vector<prompt_item> read_prompts(const std::string & path, bool nul_separated) {
    std::string text = read_file(path);
    if (text.compare(0, 3, "\xEF\xBB\xBF") == 0) {
        text.erase(0, 3); // editors on Windows mark UTF-8 so
    }
    std::vector<prompt_item> prompts;
    if (nul_separated) {
        std::vector<std::string> parts = split(text, '\0');
        if (!parts.empty() && parts.back().find_first_not_of(" \r\n\t") == std::string::npos) {
            parts.pop_back(); // a separator at the end separates nothing
        }
        for (const std::string & part : parts) {
            prompts.push_back({nullptr, part, {}});
        }
    } else {
        const size_t first = text.find_first_not_of(" \r\n\t");
        const bool is_json = first != std::string::npos && text[first] == '{';
        size_t number = 0;
        for (std::string line : split(text, '\n')) {
            ++number;
            if (!line.empty() && line.back() == '\r') {
                line.pop_back();
            }
            if (line.find_first_not_of(" \t") == std::string::npos) {
                continue;
            }
            prompts.push_back(
                is_json ? parse_json_line(line, "prompts file '" + path + "', line " + std::to_string(number))
                        : prompt_item{nullptr, line, {}});
        }
    }
    if (prompts.empty()) {
        throw error("prompts file '" + path + "' holds no prompt");
    }
    return prompts;
}

result_counts count_results(const std::string & path, const std::vector<prompt_item> & prompts) {
    const std::filesystem::path file = std::filesystem::u8path(path);
    if (!std::filesystem::is_regular_file(file)) {
        return {}; // a new file, or a device, which may be read without end
    }
    const std::string text = read_file(path);
    result_counts count;
    size_t complete = 0;
    for (size_t end; (end = text.find('\n', complete)) != std::string::npos; complete = end + 1) {
        const json result = json::parse(text.substr(complete, end - complete), nullptr, /*allow_exceptions =*/false);
        if (count.n >= prompts.size() || !result.is_object() ||
            result.value("prompt", json()) != as_result(prompts[count.n].prompt)) {
            const std::string number = std::to_string(count.n + 1);
            throw error(
                "output file '" + path + "', line " + number + " is not the result of prompt " + number +
                " (results of other prompts? move the file away or give another --output)");
        }
        ++count.n;
        count.n_failed += result.contains("error");
        count.n_abstained += result.value("abstained", json()) == true;
    }
    if (complete != text.size()) {
        std::filesystem::resize_file(file, complete);
    }
    return count;
}

std::string dump_json(const json & value, int indent) {
    return value.dump(indent, ' ', /*ensure_ascii =*/false, json::error_handler_t::replace);
}

} // namespace metadeploy
