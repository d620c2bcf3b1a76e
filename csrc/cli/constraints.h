// Checks the grammars and JSON schemas that constrain answers before llama.cpp parses them. Its parsers recurse without
// a limit on depth.
#pragma once

#include <string>

namespace metadeploy {

// flag: a flag of llama.cpp; flags that take no grammar or JSON are ignored. value: the text or the name of its file.
// Throws usage_error if the file cannot be read or the text is invalid, too long or nested too deeply.
void check_constraint(const std::string & flag, const std::string & value);

} // namespace metadeploy
