// Files of prompts in, results as JSON lines out.
#pragma once

#include "runtime/prompt.h"

#include <nlohmann/json.hpp>

#include <optional>
#include <string>
#include <vector>

namespace metadeploy {

struct prompt_item {
    nlohmann::ordered_json id;          // null where the file gives none
    std::string prompt;                 // the text, or the last message's where there are messages
    std::vector<chat_message> messages; // the conversation where the file gives one, else empty
    std::optional<double> gain = {};    // where the file gives one
};

struct prompt_list {
    std::vector<prompt_item> items;
    std::vector<std::string> unused; // keys of objects that nothing is done with, each once
};

// A prompt a line, JSON lines, a JSON array, or (nul_separated) texts between NUL bytes; UTF-8. Throws error that names
// file and line, or place in the array.
prompt_list read_prompts(const std::string & path, bool nul_separated);

struct result_counts {
    size_t n = 0;
    size_t n_failed = 0;
    size_t n_abstained = 0;
};

// Results of these prompts that the file already holds; an incomplete last line is cut off.
// Throws error where it holds results of other prompts.
result_counts count_results(const std::string & path, const std::vector<prompt_item> & prompts);

// invalid UTF-8 becomes U+FFFD: JSON cannot hold it
std::string dump_json(const nlohmann::ordered_json & value, int indent = -1);

} // namespace metadeploy
