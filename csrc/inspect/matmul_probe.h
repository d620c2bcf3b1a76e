// A matrix product by itself, as llama.cpp computes it for a weight in one of the places that its loader chooses from.
#pragma once

#include "inspect/devices.h"
#include "inspect/weight_types.h"

#include "ggml-cpp.h"

#include <optional>
#include <vector>

namespace metadeploy {

class matmul_probe {
public:
    // Throws error where the device cannot be used.
    explicit matmul_probe(const weight_place & place);

    // Whether llama.cpp's loader would put a weight [n_in, n_out] there.
    bool takes(const weight_type & type, int64_t n_in, int64_t n_out) const;

    // Puts a weight there, which the device may rearrange; rows: n_out of them, as quantize_rows makes them.
    void load(const weight_type & type, int64_t n_in, const std::vector<uint8_t> & rows);

    // Of the weight that was loaded: F32 [n_out, n_rows, n_seqs] from activations F32 [n_in, n_rows, n_seqs]. None
    // where the device does not multiply these and llama.cpp would let another one do it. Throws error where no other
    // one could, where the device fails, or where it writes beside the result.
    std::optional<std::vector<float>> multiply(
        const std::vector<float> & activations, int64_t n_rows, int64_t n_seqs, int n_threads);

private:
    weight_place place;
    ggml_backend_ptr backend;
    ggml_context_ptr ctx; // of the weight
    ggml_backend_buffer_ptr buffer;
    ggml_tensor * weight = nullptr;
};

} // namespace metadeploy
