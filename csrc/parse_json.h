// The one parser for all JSON from outside, with a limit on depth. metadeploy/_json.py accepts the same texts; a test
// compares the two.
#pragma once

#include <nlohmann/json.hpp>

#include <optional>
#include <string>

namespace metadeploy {

// greatest depth of nested arrays and objects, the same as in metadeploy/_json.py
inline constexpr size_t MAX_JSON_DEPTH = 64;

// Parses a text and keeps the order of keys. If the text is not JSON, returns nothing, and fault says why, without a
// subject. Also refuses deeper nesting, an object with a repeated key, a number that is not finite or does not fit 64
// bits, and half a surrogate pair. Skips a byte-order mark before the text.
std::optional<nlohmann::ordered_json> parse_json(const std::string & text, std::string & fault);

} // namespace metadeploy
