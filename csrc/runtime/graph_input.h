// The inputs that our parts of a graph have, and how they are filled.
#pragma once

#include "ggml-backend.h"
#include "ggml.h"

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace metadeploy {

inline ggml_tensor * new_graph_input(ggml_context * ctx, ggml_type type, int64_t n0, int64_t n1 = 1, int64_t n2 = 1) {
    ggml_tensor * tensor = ggml_new_tensor_3d(ctx, type, n0, n1, n2);
    ggml_set_input(tensor);
    return tensor;
}

// An input that no node of the graph reads has no memory and needs no data. Any other gets all of its elements: where
// their number differs, the graph was made for another micro-batch, and what it computes would be wrong.
template <typename T>
void fill_graph_input(ggml_tensor * tensor, const std::vector<T> & data) {
    if (!tensor->buffer) {
        return;
    }
    if (ggml_nbytes(tensor) != data.size() * sizeof(T)) {
        throw std::logic_error(
            "a graph's input has " + std::to_string(ggml_nelements(tensor)) + " elements, its micro-batch " +
            std::to_string(data.size()));
    }
    ggml_backend_tensor_set(tensor, data.data(), 0, ggml_nbytes(tensor));
}

} // namespace metadeploy
