// Mutates sidecars by their structure. A random change of a byte in a GGUF almost always makes a wrong count or offset,
// which never passes the first checks. This parses the file, changes one or a few parts, and writes it with correct
// counts and offsets.
#pragma once

#include <cstddef>
#include <cstdint>

namespace metadeploy::fuzzing {

// Mutates data in place and returns its new size, at most max_size, like LLVMFuzzerCustomMutator. Data that are not a
// GGUF are mutated as bytes, and so is one GGUF in ten.
size_t mutate_gguf(uint8_t * data, size_t size, size_t max_size, unsigned seed);

} // namespace metadeploy::fuzzing
