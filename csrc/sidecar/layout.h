// The tensors of a wrapper, and the sizes that follow from them; twin of metadeploy/sidecar/layout.py, which explains
// the symbols. A test draws wrappers of every kind and compares the two.
#pragma once

#include "sidecar/sidecar.h"

#include <map>
#include <optional>
#include <string>
#include <vector>

namespace metadeploy {

using tensor_shapes = std::map<std::string, std::vector<int64_t>>; // PyTorch order, by name

// The sizes that the tensors of a file imply. If they disagree, the majority wins, and shape_faults names the odd one.
struct layout {
    std::optional<encoder_type> encoder;
    std::map<char, int64_t> sizes; // of the symbols D, E, B, C, F, N that a tensor tells
    std::optional<int64_t> n_projectors;
    bool prenorm_projector = true;
    bool shared_projector = false;
    bool layer_pos_embed = false;
    int64_t n_blocks = 0;
    std::vector<int32_t> cross_attn_layers; // ascending

    int64_t size(char symbol) const; // 0: no tensor tells
    std::optional<int64_t> n_target() const;
};

// Requires nothing to be present. declared: the encoder, if the names do not tell it.
layout infer_layout(const tensor_shapes & shapes, std::optional<encoder_type> declared);

// Every tensor of such a wrapper; a dimension of 0 stands for a size that nothing tells.
tensor_shapes expected_tensors(const layout & dims);

// Missing tensors and wrong shapes. Outer dimensions of 1 do not count: GGUF does not keep them.
std::vector<std::string> shape_faults(const tensor_shapes & expected, const tensor_shapes & shapes);

} // namespace metadeploy
