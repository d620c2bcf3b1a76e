// What is said of an answer besides its text.
#pragma once

#include "runtime/generation.h"

#include <nlohmann/json.hpp>

namespace metadeploy {

nlohmann::ordered_json to_json(const generation & answer);
nlohmann::ordered_json to_json(const injection_schedule & schedule);

void print_statistics(const generation & answer); // two lines on stderr

} // namespace metadeploy
