// Computes a single matrix product as llama.cpp does for a weight in one of the places that its loader can choose.
#pragma once

#include "inspect/devices.h"
#include "inspect/weight_types.h"

#include "ggml-cpp.h"

#include <optional>
#include <vector>

namespace metadeploy {

class matmul_probe {
public:
    // Throws error if the device cannot be used.
    explicit matmul_probe(const weight_place & place);

    // Whether llama.cpp's loader would put a weight [n_in, n_out] there.
    bool takes(const weight_type & type, int64_t n_in, int64_t n_out) const;

    // Puts a weight there. The device may rearrange it. rows: n_out rows from quantize_rows.
    void load(const weight_type & type, int64_t n_in, const std::vector<uint8_t> & rows);

    // Multiplies activations F32 [n_in, n_rows, n_seqs] by the loaded weight: F32 [n_out, n_rows, n_seqs]. None if the
    // device does not support this product and llama.cpp would use another device. Throws error if no other device
    // could compute it, if the device fails, or if it writes outside the result.
    std::optional<std::vector<float>> multiply(
        const std::vector<float> & activations, int64_t n_rows, int64_t n_seqs, int n_threads);

private:
    weight_place place;
    ggml_backend_ptr backend;
    ggml_context_ptr ctx; // holds the weight
    ggml_backend_buffer_ptr buffer;
    ggml_tensor * weight = nullptr;
};

} // namespace metadeploy
