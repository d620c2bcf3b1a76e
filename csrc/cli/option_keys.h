// Keys of a prompt's JSON object that look as if they were to change its answer.
#pragma once

#include <string>

namespace metadeploy {

// The option that a key means or is a misspelling of, empty for none: for data that people keep beside their questions.
std::string option_meant(const std::string & key);

} // namespace metadeploy
