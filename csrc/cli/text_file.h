// Reads text from users' files and checks that it is UTF-8.
#pragma once

#include <string>

namespace metadeploy {

// Reads a file. Throws error if it cannot be opened; subject begins the message, e.g. "prompts file 'x'".
std::string read_bytes(const std::string & path, const std::string & subject);

enum class nul_bytes { refuse, allow };

// Returns the text without a byte-order mark. Throws error, which names the line, if the text is not UTF-8 or if it
// has NUL bytes and they are not allowed.
std::string check_text(std::string bytes, const std::string & subject, nul_bytes nul = nul_bytes::refuse);

} // namespace metadeploy
