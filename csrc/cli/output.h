// What is printed: the answer on stdout, where it arrives or the program fails, and what is said of it besides its
// text.
#pragma once

#include "runtime/generation.h"

#include <nlohmann/json.hpp>

#include <string>

namespace metadeploy {

// The reader of stdout has gone, as `head` does when it has what it wanted: no error.
struct reader_gone {};

// To be called before anything else. From then on what was not written to stdout makes the process fail, at the latest
// when it exits; that stderr cannot be written changes nothing.
void check_streams();
void require_stdout();                   // throws error where stdout is closed
void print(const std::string & text);    // to stdout, at once. Throws error, reader_gone.
[[noreturn]] void end_as_sigpipe_does(); // what a program does whose reader has gone; shells show 141

nlohmann::ordered_json to_json(const generation & answer);
nlohmann::ordered_json to_json(const injection_schedule & schedule);

void print_statistics(const generation & answer); // two lines on stderr

} // namespace metadeploy
