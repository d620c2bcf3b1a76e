#include "inspect/matmul_probe.h"

#include "errors.h"

#include <algorithm>
#include <limits>

namespace metadeploy {

namespace {

// rows of activations with which the loader tries a buffer type (weight_buft_supported in llama-model-loader.cpp)
constexpr int64_t LOADER_ROWS = 512;
// value of the memory before and after the result; the product must not change it
constexpr float UNTOUCHED = 12345.0f;

ggml_context_ptr context(size_t n_tensors) {
    return ggml_context_ptr(ggml_init({n_tensors * ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, true}));
}

void fill(ggml_tensor * tensor, float value) {
    const std::vector<float> values(ggml_nelements(tensor), value);
    ggml_backend_tensor_set(tensor, values.data(), 0, ggml_nbytes(tensor));
}

std::vector<float> values_of(const ggml_tensor * tensor) {
    std::vector<float> values(ggml_nelements(tensor));
    ggml_backend_tensor_get(tensor, values.data(), 0, ggml_nbytes(tensor));
    return values;
}

bool is_untouched(const ggml_tensor * tensor) {
    const std::vector<float> values = values_of(tensor);
    return std::all_of(values.begin(), values.end(), [](float value) { return value == UNTOUCHED; });
}

void set_threads(ggml_backend_t backend, int n_threads) {
    ggml_backend_reg_t reg = ggml_backend_dev_backend_reg(ggml_backend_get_device(backend));
    const auto set = (ggml_backend_set_n_threads_t)ggml_backend_reg_get_proc_address(reg, "ggml_backend_set_n_threads");
    if (set) {
        set(backend, n_threads);
    }
}

} // namespace

matmul_probe::matmul_probe(const weight_place & place)
    : place(place), backend(ggml_backend_dev_init(place.device, nullptr)) {
    if (!backend) {
        throw error(std::string("device '") + ggml_backend_dev_name(place.device) + "' cannot be used");
    }
}

bool matmul_probe::takes(const weight_type & type, int64_t n_in, int64_t n_out) const {
    const ggml_context_ptr tensors = context(3);
    ggml_tensor * w = ggml_new_tensor_2d(tensors.get(), type.type, n_in, n_out);
    ggml_tensor * x = ggml_new_tensor_2d(tensors.get(), GGML_TYPE_F32, n_in, LOADER_ROWS);
    ggml_tensor * y = ggml_mul_mat(tensors.get(), w, x);
    // an empty buffer, which shows the device the place of the weight
    const ggml_backend_buffer_ptr there(ggml_backend_buft_alloc_buffer(place.buffer_type, 0));
    w->buffer = there.get();
    return ggml_backend_dev_supports_op(place.device, y);
}

void matmul_probe::load(const weight_type & type, int64_t n_in, const std::vector<uint8_t> & rows) {
    buffer.reset();
    ctx = context(1);
    const int64_t n_out = (int64_t)(rows.size() / ggml_row_size(type.type, n_in));
    weight = ggml_new_tensor_2d(ctx.get(), type.type, n_in, n_out);
    buffer.reset(ggml_backend_alloc_ctx_tensors_from_buft(ctx.get(), place.buffer_type));
    if (!buffer) {
        throw error(
            std::string("no memory for a weight in buffer type '") + ggml_backend_buft_name(place.buffer_type) + "'");
    }
    ggml_backend_buffer_set_usage(buffer.get(), GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
    ggml_backend_tensor_set(weight, rows.data(), 0, rows.size());
}

std::optional<std::vector<float>> matmul_probe::multiply(
    const std::vector<float> & activations, int64_t n_rows, int64_t n_seqs, int n_threads) {
    const ggml_context_ptr tensors = context(4);
    const int64_t n_in = weight->ne[0];
    const int64_t n_values = weight->ne[1] * n_rows * n_seqs;
    ggml_tensor * x = ggml_new_tensor_3d(tensors.get(), GGML_TYPE_F32, n_in, n_rows, n_seqs);
    // Memory around the result: a write to a wrong row address lands here, not in other memory.
    ggml_tensor * before = ggml_new_tensor_1d(tensors.get(), GGML_TYPE_F32, n_values);
    ggml_tensor * y = ggml_mul_mat(tensors.get(), weight, x); // F32 [n_out, n_rows, n_seqs]
    ggml_tensor * after = ggml_new_tensor_1d(tensors.get(), GGML_TYPE_F32, 3 * n_values);
    if (!ggml_backend_supports_op(backend.get(), y)) {
        if (place.is_extra) {
            throw error("the buffer type takes the weight but refuses these activations");
        }
        return std::nullopt;
    }
    ggml_cgraph * graph = ggml_new_graph(tensors.get());
    ggml_build_forward_expand(graph, y);
    const ggml_backend_buffer_ptr memory(ggml_backend_alloc_ctx_tensors(tensors.get(), backend.get()));
    if (!memory) {
        throw error("no memory for a product");
    }
    ggml_backend_tensor_set(x, activations.data(), 0, ggml_nbytes(x));
    fill(y, std::numeric_limits<float>::quiet_NaN()); // elements stay NaN if the product writes nothing or adds
    fill(before, UNTOUCHED);
    fill(after, UNTOUCHED);
    set_threads(backend.get(), n_threads);
    if (ggml_backend_graph_compute(backend.get(), graph) != GGML_STATUS_SUCCESS) {
        throw error("the device failed");
    }
    if (!is_untouched(before) || !is_untouched(after)) {
        throw error("writes outside its result");
    }
    return values_of(y);
}

} // namespace metadeploy
