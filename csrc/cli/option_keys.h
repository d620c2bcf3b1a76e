// Finds keys of a prompt's JSON object that look like options.
#pragma once

#include <string>

namespace metadeploy {

// Returns the option that a key names or misspells. Empty if there is none, as for data that users keep with prompts.
std::string option_meant(const std::string & key);

} // namespace metadeploy
