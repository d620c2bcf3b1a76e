// Grammars and JSON schemas that constrain answers: looked at before llama.cpp's parsers, which call themselves for
// each level of nesting, however deep a file is.
#pragma once

#include <string>

namespace metadeploy {

// flag: one of llama.cpp's; those that are about something else are none of its business. Throws usage_error where the
// grammar or schema that value is, or names, cannot be read, is too long or nested too deeply.
void check_constraint(const std::string & flag, const std::string & value);

} // namespace metadeploy
