// The settings that the answers of a run depend on. They keep results of different settings out of the same file.
#pragma once

#include "cli/args.h"
#include "cli/prompts.h"

#include <nlohmann/json.hpp>

#include <string>
#include <vector>

namespace metadeploy {

// Returns the settings by the names of their flags. A file is identified by its content: {"name", "xxh128"}. Settings
// that change at most the last digits of logits are left out: threads, devices, the sizes of batches and caches, and
// the number of parallel answers. Throws error if a file cannot be read.
nlohmann::ordered_json settings_of(const cli_args & args);

// Lists the differences between two results of settings_of, e.g. "-n was 9, is 5".
std::vector<std::string> settings_faults(const nlohmann::ordered_json & before, const nlohmann::ordered_json & now);

// Hex digest (XXH3, 64 bits) of the settings and of the prompt's own text, messages and gain.
std::string run_id(const nlohmann::ordered_json & settings, const prompt_item & item);

} // namespace metadeploy
