#include "sidecar/metadata.h"

#include "errors.h"
#include "sidecar/rules.h"

#include <nlohmann/json.hpp>

#include <cstring>
#include <set>

namespace metadeploy {

namespace {

std::string type_name(const gguf_context * gguf, int64_t id) {
    const gguf_type type = gguf_get_kv_type(gguf, id);
    return type == GGUF_TYPE_ARRAY ? std::string("[") + gguf_type_name(gguf_get_arr_type(gguf, id)) + "]"
                                   : gguf_type_name(type);
}

// the elements of an array of one of the integer types
template <typename T>
std::vector<int64_t> widened(const gguf_context * gguf, int64_t id) {
    const size_t n = gguf_get_arr_n(gguf, id);
    std::vector<T> values(n);
    if (n > 0) {
        std::memcpy(values.data(), gguf_get_arr_data(gguf, id), n * sizeof(T));
    }
    // a number that does not fit becomes negative, which no layer and no token is
    return {values.begin(), values.end()};
}

} // namespace

std::optional<std::string> metadata::text(const char * key) const {
    const int64_t id = gguf_find_key(gguf, name(key).c_str());
    if (id < 0) {
        return std::nullopt;
    }
    if (gguf_get_kv_type(gguf, id) != GGUF_TYPE_STRING) {
        faults.push_back("key '" + name(key) + "' has type " + type_name(gguf, id) + ", expected str");
        return std::nullopt;
    }
    return gguf_get_val_str(gguf, id);
}

std::optional<int64_t> metadata::integer(const char * key) const {
    const int64_t id = gguf_find_key(gguf, name(key).c_str());
    if (id < 0) {
        return std::nullopt;
    }
    int64_t value = -1;
    switch (gguf_get_kv_type(gguf, id)) {
    case GGUF_TYPE_UINT32:
        value = gguf_get_val_u32(gguf, id);
        break;
    case GGUF_TYPE_INT32:
        value = gguf_get_val_i32(gguf, id);
        break;
    case GGUF_TYPE_UINT64:
        value = (int64_t)gguf_get_val_u64(gguf, id);
        break;
    case GGUF_TYPE_INT64:
        value = gguf_get_val_i64(gguf, id);
        break;
    default:
        faults.push_back("key '" + name(key) + "' has type " + type_name(gguf, id) + ", expected u32");
        return std::nullopt;
    }
    if (value < 0 || value > INT32_MAX) {
        faults.push_back(
            "key '" + name(key) + "' is " + std::to_string(value) + ", expected 0 to " + std::to_string(INT32_MAX));
        return std::nullopt;
    }
    return value;
}

std::optional<float> metadata::number(const char * key) const {
    const int64_t id = gguf_find_key(gguf, name(key).c_str());
    if (id < 0) {
        return std::nullopt;
    }
    if (gguf_get_kv_type(gguf, id) != GGUF_TYPE_FLOAT32) {
        faults.push_back("key '" + name(key) + "' has type " + type_name(gguf, id) + ", expected f32");
        return std::nullopt;
    }
    return gguf_get_val_f32(gguf, id);
}

std::optional<std::vector<float>> metadata::numbers(const char * key) const {
    const int64_t id = gguf_find_key(gguf, name(key).c_str());
    if (id < 0) {
        return std::nullopt;
    }
    if (gguf_get_kv_type(gguf, id) != GGUF_TYPE_ARRAY || gguf_get_arr_type(gguf, id) != GGUF_TYPE_FLOAT32) {
        faults.push_back("key '" + name(key) + "' has type " + type_name(gguf, id) + ", expected [f32]");
        return std::nullopt;
    }
    const auto * values = static_cast<const float *>(gguf_get_arr_data(gguf, id));
    return std::vector<float>(values, values + gguf_get_arr_n(gguf, id));
}

std::optional<std::vector<int64_t>> metadata::integers(const char * key) const {
    const int64_t id = gguf_find_key(gguf, name(key).c_str());
    if (id < 0) {
        return std::nullopt;
    }
    switch (gguf_get_kv_type(gguf, id) == GGUF_TYPE_ARRAY ? gguf_get_arr_type(gguf, id) : GGUF_TYPE_COUNT) {
    case GGUF_TYPE_INT32:
        return widened<int32_t>(gguf, id);
    case GGUF_TYPE_UINT32:
        return widened<uint32_t>(gguf, id);
    case GGUF_TYPE_INT64:
        return widened<int64_t>(gguf, id);
    case GGUF_TYPE_UINT64:
        return widened<uint64_t>(gguf, id);
    default:
        faults.push_back("key '" + name(key) + "' has type " + type_name(gguf, id) + ", expected [i32]");
        return std::nullopt;
    }
}

std::optional<std::vector<int32_t>> metadata::tokens(const char * key) const {
    const std::optional<std::vector<int64_t>> values = integers(key);
    if (!values) {
        return std::nullopt;
    }
    for (const int64_t value : *values) {
        if (value < 0 || value > INT32_MAX) {
            faults.push_back(
                "key '" + name(key) + "' has " + std::to_string(value) + ", expected token ids from 0 to " +
                std::to_string(INT32_MAX));
            return std::nullopt;
        }
    }
    return std::vector<int32_t>(values->begin(), values->end());
}

std::optional<std::vector<int32_t>> metadata::layers(const char * key) const {
    const std::optional<std::vector<int64_t>> values = integers(key);
    if (!values) {
        return std::nullopt;
    }
    std::vector<int32_t> layers;
    std::set<int64_t> seen;
    for (const int64_t value : *values) {
        if (value < 0 || value >= MAX_LAYERS) {
            faults.push_back(
                "key '" + name(key) + "' has layer " + std::to_string(value) + ", expected layers from 0 to " +
                std::to_string(MAX_LAYERS - 1));
            return std::nullopt;
        }
        if (!seen.insert(value).second) {
            faults.push_back("key '" + name(key) + "' names layer " + std::to_string(value) + " twice");
            return std::nullopt;
        }
        layers.push_back((int32_t)value);
    }
    return layers;
}

void metadata::check_texts() const {
    for (int64_t id = 0; id < gguf_get_n_kv(gguf); ++id) {
        const std::string key = gguf_get_key(gguf, id);
        if (key.empty() || !is_utf8(key)) {
            faults.push_back("metadata key " + std::to_string(id) + " has a name that is empty or not UTF-8");
        } else if (gguf_get_kv_type(gguf, id) == GGUF_TYPE_STRING && !is_utf8(gguf_get_val_str(gguf, id))) {
            faults.push_back("key '" + shown(key) + "' has text that is not UTF-8");
        }
    }
}

bool is_utf8(const std::string & text) {
    try {
        (void)nlohmann::json(text).dump(); // refuses all that is not
        return true;
    } catch (const nlohmann::json::type_error &) {
        return false;
    }
}

} // namespace metadeploy
