// Checks the counts and lengths in a sidecar against their bounds, before ggml's reader allocates memory for them.
#pragma once

#include <cstdio>
#include <string>

namespace metadeploy {

// Throws sidecar_error that begins with subject if a count or a length in the file's head exceeds its bound
// (sidecar/rules.h), or if the head has a fault that ggml's reader accepts and metadeploy/sidecar/gguf_file.py refuses.
// A file that is not a GGUF, or that ends too early, is left to ggml's reader. Afterwards, the file is at its beginning
// again.
void check_head(std::FILE * file, const std::string & subject);

} // namespace metadeploy
