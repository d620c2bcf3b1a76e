// Prints the answer on stdout and its statistics on stderr. The program fails if the answer cannot be written.
#pragma once

#include "generation/generation.h"

#include <nlohmann/json.hpp>

#include <string>

namespace metadeploy {

// The reader of stdout has exited, as `head` does after enough lines. This is not an error.
struct reader_gone {};

// Call this before anything else. Afterwards, the process fails if stdout cannot be written, at the latest when it
// exits. A failure to write to stderr is ignored.
void check_streams();
void require_stdout();                   // throws error if stdout is closed
void print(const std::string & text);    // to stdout, at once. Throws error, reader_gone.
[[noreturn]] void end_as_sigpipe_does(); // ends the process by SIGPIPE; shells show 141

nlohmann::ordered_json to_json(const generation & answer);
nlohmann::ordered_json to_json(const injection_schedule & schedule);

void print_statistics(const generation & answer); // two lines on stderr

} // namespace metadeploy
