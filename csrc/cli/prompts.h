// Files of prompts. For their results, see results.h.
#pragma once

#include "text/chat_formatter.h"

#include <nlohmann/json.hpp>

#include <optional>
#include <string>
#include <vector>

namespace metadeploy {

struct prompt_item {
    nlohmann::ordered_json id;          // null if the file gives none
    std::string prompt;                 // the text, or the last message's if there are messages
    std::vector<chat_message> messages; // the conversation if the file gives one, else empty
    std::optional<double> gain = {};    // if the file gives one
};

struct prompt_list {
    std::vector<prompt_item> items;
    std::vector<std::string> unused; // keys of objects that have no effect, each once
};

// Reads a UTF-8 file: one prompt per line, JSON lines, a JSON array, or (nul_separated) texts separated by NUL bytes.
// Throws error that names the file and the line, or the position in the array.
prompt_list read_prompts(const std::string & path, bool nul_separated);

// invalid UTF-8 becomes U+FFFD: JSON cannot hold it
std::string dump_json(const nlohmann::ordered_json & value, int indent = -1);

} // namespace metadeploy
