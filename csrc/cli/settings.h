// What the answers of a run depend on, so that results of two systems never end up in one file.
#pragma once

#include "cli/args.h"
#include "cli/prompts.h"

#include <nlohmann/json.hpp>

#include <string>
#include <vector>

namespace metadeploy {

// By the names of the flags. Files are told apart by their content: {"name", "xxh128"}. Left out is what changes the
// last digits of logits at most: threads, devices, sizes of batches and caches, how many are answered at once.
// Throws error where a file cannot be read.
nlohmann::ordered_json settings_of(const cli_args & args);

// What differs between two of these, a phrase each: "-n was 9, is 5".
std::vector<std::string> settings_faults(const nlohmann::ordered_json & before, const nlohmann::ordered_json & now);

// Hex digest (XXH3, 64 bits) of these settings and what a prompt brings of its own: its messages, its gain.
std::string run_id(const nlohmann::ordered_json & settings, const prompt_item & item);

} // namespace metadeploy
