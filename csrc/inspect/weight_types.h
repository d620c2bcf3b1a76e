// The types that ggml can quantise weights to.
#pragma once

#include "ggml.h"

#include <cstdint>
#include <string>
#include <vector>

namespace metadeploy {

struct weight_type {
    ggml_type type;
    std::string name;   // as files and flags write it: Q4_1, BF16
    int64_t block;      // a row's length is a multiple of it
    std::string factor; // type that the CPU rounds activations to before it multiplies: F32, Q8_0, Q8_K ...
};

std::vector<weight_type> list_weight_types();

// Throws error for a name that list_weight_types does not have.
weight_type find_weight_type(const std::string & name);

// Rows of n_in values each; with equal importance of all columns where the type wants to be told.
std::vector<uint8_t> quantize_rows(const weight_type & type, const std::vector<float> & values, int64_t n_in);

std::vector<float> dequantize_rows(const weight_type & type, const std::vector<uint8_t> & rows, int64_t n_in);

} // namespace metadeploy
