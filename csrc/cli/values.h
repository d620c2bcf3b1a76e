// Values of our flags and environment variables, from text. All throw usage_error, which begins with their source: the
// name of the flag or of the variable.
#pragma once

#include "model/injection_schedule.h"

#include <cstdint>
#include <string>
#include <vector>

namespace metadeploy {

double parse_gain(const std::string & text, const std::string & source);
double parse_threshold(const std::string & text, const std::string & source);
bool parse_on_doubt(const std::string & text, const std::string & source); // true for "withhold", false for "flag"
int32_t parse_mib(const std::string & text, const std::string & source);
std::string parse_refusal_text(const std::string & text, const std::string & source);

// "21-31", "1,5,7-9", "late" (the last third of a base's n_layer blocks) or "all"
std::vector<int32_t> parse_layers(const std::string & text, int32_t n_layer, const std::string & source);

// "floor,tau", a number of tokens, "threshold,min_interval,max_interval"
void set_decay(injection_schedule & schedule, const std::string & text, const std::string & source);
void set_window(injection_schedule & schedule, const std::string & text, const std::string & source);
void set_refresh(injection_schedule & schedule, const std::string & text, const std::string & source);

} // namespace metadeploy
