// JSON from outside: one parser with a bound on depth, for everything that metadeploy reads. metadeploy/_json.py
// accepts the same texts; a test compares the two.
#pragma once

#include <nlohmann/json.hpp>

#include <optional>
#include <string>

namespace metadeploy {

// most arrays and objects inside one another; the same bound as metadeploy/_json.py
inline constexpr size_t MAX_JSON_DEPTH = 64;

// The value of a text, its objects in the order of the text. Where the text is not JSON, nothing; fault then says why,
// without a subject. Refused as well: deeper nesting, an object that has a key twice, a number that is not finite or
// does not fit 64 bits, half a surrogate pair. A byte-order mark before the text is skipped.
std::optional<nlohmann::ordered_json> parse_json(const std::string & text, std::string & fault);

} // namespace metadeploy
