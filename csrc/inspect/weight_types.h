// The types to which ggml can quantize weights.
#pragma once

#include "ggml.h"

#include <cstdint>
#include <string>
#include <vector>

namespace metadeploy {

struct weight_type {
    ggml_type type;
    std::string name;   // as in files and flags: Q4_1, BF16
    int64_t block;      // a row's length is a multiple of it
    std::string factor; // the type to which the CPU rounds activations before a product: F32, Q8_0, Q8_K ...
};

std::vector<weight_type> list_weight_types();

// Throws error for a name that list_weight_types does not have.
weight_type find_weight_type(const std::string & name);

// Quantizes rows of n_in values each. If the type needs an importance matrix, all columns get equal importance.
std::vector<uint8_t> quantize_rows(const weight_type & type, const std::vector<float> & values, int64_t n_in);

std::vector<float> dequantize_rows(const weight_type & type, const std::vector<uint8_t> & rows, int64_t n_in);

} // namespace metadeploy
