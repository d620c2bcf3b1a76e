// Creates and fills the inputs of our parts of a graph.
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

// Fills an input. An input that no node of the graph reads has no memory and needs no data. For any other input, data
// must have all of its elements. If their number differs, the graph was made for another micro-batch, and its results
// would be wrong.
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
