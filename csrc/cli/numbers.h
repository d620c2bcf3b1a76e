// The numbers among llama.cpp's flags. Its parser takes "4k" for 4, "0,7" for 0, and 5000000000 for another number.
#pragma once

#include <string>
#include <vector>

namespace metadeploy {

// Checks the values of all numeric flags and of their environment variables. args: the program's name, then what
// llama.cpp's parser is to read; a number that a float cannot tell from 0 becomes 0 there. Throws usage_error that
// names flag or variable, value and range.
void check_numbers(std::vector<std::string> & args);

// The whole of a text as a number of this range; source begins the message, as in "META_NGEN".
long long parse_whole(const std::string & text, long long least, long long most, const std::string & source);

} // namespace metadeploy
