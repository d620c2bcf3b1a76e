// Mutates sidecars where they have meaning: a random byte of a GGUF is a wrong count or a wrong offset nearly always,
// and never gets past the first checks. This takes the file apart, changes one or a few things, and puts it together
// again with counts and offsets that are right.
#pragma once

#include <cstddef>
#include <cstdint>

namespace metadeploy::fuzzing {

// Mutates data in place and returns its new size, at most max_size; in the manner of LLVMFuzzerCustomMutator. Data that
// are no GGUF are mutated as bytes, and so is every tenth that is.
size_t mutate_gguf(uint8_t * data, size_t size, size_t max_size, unsigned seed);

} // namespace metadeploy::fuzzing
