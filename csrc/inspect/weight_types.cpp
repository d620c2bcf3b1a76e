#include "inspect/weight_types.h"

#include "errors.h"

#include "ggml-cpu.h"

#include <algorithm>
#include <cctype>

namespace metadeploy {

namespace {

std::string upper(std::string text) {
    std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return (char)std::toupper(c); });
    return text;
}

// Q8_1 and Q8_K hold activations inside a product, not weights. ggml_quantize_chunk does not support them.
bool can_quantize(ggml_type type) {
    const ggml_type_traits * traits = ggml_get_type_traits(type);
    const bool is_float = type == GGML_TYPE_F32 || type == GGML_TYPE_F16 || type == GGML_TYPE_BF16;
    return is_float || (traits->is_quantized && traits->blck_size > 0 && traits->to_float && type != GGML_TYPE_Q8_1 &&
                        type != GGML_TYPE_Q8_K);
}

} // namespace

std::vector<weight_type> list_weight_types() {
    std::vector<weight_type> types;
    for (int i = 0; i < GGML_TYPE_COUNT; ++i) {
        const auto type = (ggml_type)i;
        if (can_quantize(type)) {
            const ggml_type factor = ggml_get_type_traits_cpu(type)->vec_dot_type;
            types.push_back({type, upper(ggml_type_name(type)), ggml_blck_size(type), upper(ggml_type_name(factor))});
        }
    }
    return types;
}

weight_type find_weight_type(const std::string & name) {
    for (const weight_type & type : list_weight_types()) {
        if (type.name == name) {
            return type;
        }
    }
    throw error("weight type is '" + name + "', expected one that ggml can quantise to, e.g. Q4_1");
}

std::vector<uint8_t> quantize_rows(const weight_type & type, const std::vector<float> & values, int64_t n_in) {
    const int64_t n_rows = (int64_t)values.size() / n_in;
    std::vector<uint8_t> rows(ggml_row_size(type.type, n_in) * n_rows);
    const std::vector<float> importance(ggml_quantize_requires_imatrix(type.type) ? n_in : 0, 1.0f);
    ggml_quantize_chunk(
        type.type, values.data(), rows.data(), 0, n_rows, n_in, importance.empty() ? nullptr : importance.data());
    return rows;
}

std::vector<float> dequantize_rows(const weight_type & type, const std::vector<uint8_t> & rows, int64_t n_in) {
    const int64_t n_rows = (int64_t)(rows.size() / ggml_row_size(type.type, n_in));
    std::vector<float> values(n_rows * n_in);
    if (type.type == GGML_TYPE_F32) {
        std::copy_n((const float *)rows.data(), values.size(), values.begin()); // F32 has no to_float
    } else {
        ggml_get_type_traits(type.type)->to_float(rows.data(), values.data(), (int64_t)values.size());
    }
    return values;
}

} // namespace metadeploy
