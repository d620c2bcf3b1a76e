// The first look at a sidecar: counts and lengths against their bounds, before ggml's reader allocates what they say.
#pragma once

#include <cstdio>
#include <string>

namespace metadeploy {

// Throws sidecar_error that begins with subject where a count or a length of the file's head is beyond its bound
// (sidecar/rules.h), or where it holds what ggml's reader passes and metadeploy/sidecar/gguf_file.py refuses. A file
// that is no GGUF, or ends too early, is left to ggml's reader.
// The file is read from its beginning, and stands there again afterwards.
void check_head(std::FILE * file, const std::string & subject);

} // namespace metadeploy
