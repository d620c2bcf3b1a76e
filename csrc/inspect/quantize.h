// Quantization of base models, by llama.cpp.
#pragma once

#include <string>

namespace metadeploy {

// Writes a copy of the model src with weights of the type that file_type names (F16, Q8_0, Q4_K_M ...), whole or not at
// all. n_threads 0: one for each CPU that this process may use. Throws error.
void quantize_model(const std::string & src, const std::string & dst, const std::string & file_type, int n_threads);

} // namespace metadeploy
