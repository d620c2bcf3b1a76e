// Checks the numbers in llama.cpp's flags. Its parser reads "4k" as 4, "0,7" as 0, and 5000000000 as another number.
#pragma once

#include <string>
#include <vector>

namespace metadeploy {

// Checks the values of all numeric flags and of their environment variables. args: the program's name, then the
// arguments for llama.cpp's parser; a nonzero number that is too small for a float is replaced by 0. Throws usage_error
// that names the flag or variable, the value and the range.
void check_numbers(std::vector<std::string> & args);

// Parses the whole text as an integer in this range; source begins the error message, e.g. "META_NGEN".
long long parse_whole(const std::string & text, long long min, long long max, const std::string & source);

} // namespace metadeploy
