// Text from people's files, which come in more encodings than UTF-8.
#pragma once

#include <string>

namespace metadeploy {

// Throws error where it cannot be opened; subject begins the message, as in "prompts file 'x'".
std::string read_bytes(const std::string & path, const std::string & subject);

enum class nul_bytes { refuse, allow };

// The text without a byte-order mark. Throws error, with line and fact, where it is not UTF-8 or, unless they are
// allowed, holds NUL bytes.
std::string check_text(std::string bytes, const std::string & subject, nul_bytes nul = nul_bytes::refuse);

} // namespace metadeploy
