#include "errors.h"
#include "log.h"
#include "sidecar/keys.h"
#include "sidecar/layout.h"
#include "sidecar/sidecar.h"

#include "ggml-cpp.h"
#include "gguf.h"

#include <cinttypes>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <set>

namespace metadeploy {

namespace {

// more than any wrapper needs, little enough to refuse a hostile count before it costs memory
constexpr int64_t MAX_TENSORS = 1 << 16;
constexpr size_t MAX_LAYERS = 1 << 12;

// typed access to the metadata that turns a wrong type into a fault instead of an assertion
class metadata {
public:
    metadata(const gguf_context * gguf, std::vector<std::string> & faults) : gguf(gguf), faults(faults) {}

    std::string prefix;

    std::string text(const std::string & key, const std::string & fallback) const {
        const int64_t id = find(key, GGUF_TYPE_STRING, "a string");
        return id < 0 ? fallback : gguf_get_val_str(gguf, id);
    }

    // a non-negative integer of any width
    int64_t integer(const std::string & key, int64_t fallback) const {
        const int64_t id = gguf_find_key(gguf, (prefix + key).c_str());
        if (id < 0) {
            return fallback;
        }
        int64_t value = -1;
        switch (gguf_get_kv_type(gguf, id)) {
        case GGUF_TYPE_UINT8:
            value = gguf_get_val_u8(gguf, id);
            break;
        case GGUF_TYPE_INT8:
            value = gguf_get_val_i8(gguf, id);
            break;
        case GGUF_TYPE_UINT16:
            value = gguf_get_val_u16(gguf, id);
            break;
        case GGUF_TYPE_INT16:
            value = gguf_get_val_i16(gguf, id);
            break;
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
            break;
        }
        if (value < 0 || value > INT32_MAX) {
            faults.push_back("key '" + prefix + key + "' is not an integer from 0 to 2147483647");
            return fallback;
        }
        return value;
    }

    // the framework leaves an empty list out of the file
    std::vector<int32_t> layers(const std::string & key) const {
        const int64_t id = find(key, GGUF_TYPE_ARRAY, "an array of integers");
        if (id < 0) {
            return {};
        }
        const gguf_type type = gguf_get_arr_type(gguf, id);
        const size_t n = gguf_get_arr_n(gguf, id);
        if ((type != GGUF_TYPE_INT32 && type != GGUF_TYPE_UINT32) || n > MAX_LAYERS) {
            faults.push_back(
                "key '" + prefix + key + "' has " + std::to_string(n) + " elements of type " + gguf_type_name(type) +
                ", expected at most " + std::to_string(MAX_LAYERS) + " of i32");
            return {};
        }
        std::vector<int32_t> layers(n);
        if (n > 0) {
            std::memcpy(layers.data(), gguf_get_arr_data(gguf, id), n * sizeof(int32_t));
        }
        std::set<int32_t> seen;
        for (const int32_t il : layers) {
            if (il < 0 || !seen.insert(il).second) {
                faults.push_back(
                    "key '" + prefix + key + "' holds layer " + std::to_string(il) +
                    (il < 0 ? ", expected 0 or more" : " twice"));
                return {};
            }
        }
        return layers;
    }

private:
    int64_t find(const std::string & key, gguf_type type, const char * expected) const {
        const int64_t id = gguf_find_key(gguf, (prefix + key).c_str());
        if (id < 0) {
            return -1;
        }
        if (gguf_get_kv_type(gguf, id) != type) {
            faults.push_back(
                "key '" + prefix + key + "' has type " + gguf_type_name(gguf_get_kv_type(gguf, id)) + ", expected " +
                expected);
            return -1;
        }
        return id;
    }

    const gguf_context * gguf;
    std::vector<std::string> & faults;
};

wrapper_config read_config(const gguf_context * gguf, std::vector<std::string> & faults) {
    wrapper_config config;
    metadata meta(gguf, faults);

    const std::string arch = meta.text(keys::ARCHITECTURE, "");
    if (arch == keys::ARCH_META_SPIDER) {
        meta.prefix = keys::PREFIX_META_SPIDER;
    } else if (arch == keys::ARCH_DAIMON) {
        meta.prefix = keys::PREFIX_DAIMON;
    } else {
        faults.push_back(
            "general.architecture is '" + arch + "', expected '" + keys::ARCH_META_SPIDER +
            "' (a base model given as sidecar?)");
        return config;
    }
    const int64_t version = meta.integer(keys::FORMAT_VERSION, SIDECAR_FORMAT_VERSION);
    if (version > SIDECAR_FORMAT_VERSION) {
        faults.push_back(
            "format version " + std::to_string(version) + ", expected at most " +
            std::to_string(SIDECAR_FORMAT_VERSION) + " (update metadeploy, or export again with this one)");
    }
    const std::string encoder = meta.text(keys::ENCODER_TYPE, "");
    if (encoder == "selective") {
        config.encoder = encoder_type::selective;
    } else if (encoder == "multi_token") {
        config.encoder = encoder_type::multi_token;
    } else if (encoder == "transformer") {
        config.encoder = encoder_type::transformer;
    } else {
        faults.push_back("encoder_type is '" + encoder + "', expected selective, multi_token or transformer");
    }
    if (const std::string gate = meta.text(keys::GATE_ACTIVATION, "tanh"); gate != "tanh") {
        faults.push_back("gate_activation is '" + gate + "', expected 'tanh'");
    }
    const std::string from = meta.text(keys::INJECT_FROM, inject_from_name(inject_from::prompt));
    if (from == inject_from_name(inject_from::last_prompt_token)) {
        config.from = inject_from::last_prompt_token;
    } else if (from != inject_from_name(inject_from::prompt)) {
        faults.push_back("inject_from is '" + from + "', expected 'prompt' or 'last_prompt_token'");
    }
    config.n_embd = meta.integer(keys::HIDDEN_DIM, 0);
    config.n_bottleneck = meta.integer(keys::BOTTLENECK_DIM, 0);
    config.n_ca_head = meta.integer(keys::CA_NUM_HEADS, 4);
    config.n_enc_head = meta.integer(keys::ENC_NUM_HEADS, 8);
    config.target_layers = meta.layers(keys::TARGET_LAYERS);
    config.cross_attn_layers = meta.layers(keys::CROSS_ATTN_LAYERS);
    config.base_block_count = meta.integer(keys::BASE_BLOCK_COUNT, 0);
    config.kind = meta.text(keys::KIND, config.kind);
    config.refusal_text = meta.text(keys::REFUSAL_TEXT, config.refusal_text);
    config.prompt_format = meta.text(keys::PROMPT_FORMAT, "");
    config.answer_suffix = meta.text(keys::ANSWER_SUFFIX, "");
    config.chat_template_kwargs = meta.text(keys::CHAT_TEMPLATE_KWARGS, "");
    config.checkpoint_sha256 = meta.text(keys::CHECKPOINT_SHA256, "");
    return config;
}

std::vector<int64_t> torch_shape(const ggml_tensor * tensor) {
    const int n_dims = ggml_n_dims(tensor);
    std::vector<int64_t> shape(n_dims);
    for (int i = 0; i < n_dims; ++i) {
        shape[i] = tensor->ne[n_dims - 1 - i];
    }
    return shape;
}

bool is_readable_type(ggml_type type) {
    return type == GGML_TYPE_F32 || type == GGML_TYPE_F16 || type == GGML_TYPE_BF16 || type == GGML_TYPE_Q8_0;
}

void read_tensor(
    std::ifstream & file,
    const ggml_tensor * tensor,
    uint64_t offset,
    host_tensor & out,
    std::vector<std::string> & faults) {
    const size_t n_bytes = ggml_nbytes(tensor);
    const int64_t n = ggml_nelements(tensor);
    out.data.resize(n);
    file.seekg((std::streamoff)offset);
    if (tensor->type == GGML_TYPE_F32) {
        file.read(reinterpret_cast<char *>(out.data.data()), (std::streamsize)n_bytes);
    } else {
        std::vector<char> raw(n_bytes);
        file.read(raw.data(), (std::streamsize)n_bytes);
        ggml_get_type_traits(tensor->type)->to_float(raw.data(), out.data.data(), n);
    }
    if (!file) {
        faults.push_back(std::string("tensor '") + tensor->name + "' cannot be read (truncated file?)");
        file.clear();
        return;
    }
    for (int64_t i = 0; i < n; ++i) {
        if (!std::isfinite(out.data[i])) {
            faults.push_back(
                std::string("tensor '") + tensor->name + "' has a value that is not finite at element " +
                std::to_string(i));
            return;
        }
    }
}

} // namespace

const char * encoder_type_name(encoder_type type) {
    switch (type) {
    case encoder_type::selective:
        return "selective";
    case encoder_type::multi_token:
        return "multi_token";
    case encoder_type::transformer:
        return "transformer";
    }
    return "unknown";
}

const char * inject_from_name(inject_from from) {
    return from == inject_from::prompt ? "prompt" : "last_prompt_token";
}

sidecar read_sidecar(const std::string & path) {
    const std::string subject = "sidecar '" + path + "'";
    std::error_code ec;
    const std::filesystem::path fs_path = std::filesystem::u8path(path);
    if (!std::filesystem::is_regular_file(fs_path, ec)) {
        throw sidecar_error(subject + ": no such file, expected a GGUF written by `metadeploy export`");
    }
    const uint64_t file_size = std::filesystem::file_size(fs_path, ec);

    ggml_context * ggml_raw = nullptr;
    log_capture log;
    gguf_context_ptr gguf(gguf_init_from_file(path.c_str(), {/*.no_alloc =*/true, /*.ctx =*/&ggml_raw}));
    ggml_context_ptr ggml(ggml_raw);
    if (!gguf || !ggml) {
        throw sidecar_error(subject + ": not a readable GGUF (" + log.last_line("truncated or another format") + ")");
    }

    sidecar result;
    result.path = path;
    std::vector<std::string> faults;
    result.config = read_config(gguf.get(), faults);
    if (!faults.empty()) {
        throw sidecar_error(faults_message(subject, faults));
    }

    const int64_t n_tensors = gguf_get_n_tensors(gguf.get());
    if (n_tensors > MAX_TENSORS) {
        throw sidecar_error(
            subject + ": " + std::to_string(n_tensors) + " tensors, expected at most " + std::to_string(MAX_TENSORS));
    }
    const uint64_t data_offset = gguf_get_data_offset(gguf.get());
    std::map<std::string, std::vector<int64_t>> shapes;
    for (int64_t i = 0; i < n_tensors; ++i) {
        const char * name = gguf_get_tensor_name(gguf.get(), i);
        const ggml_tensor * tensor = ggml_get_tensor(ggml.get(), name);
        const uint64_t offset = gguf_get_tensor_offset(gguf.get(), i);
        if (!tensor || !is_readable_type(tensor->type)) {
            faults.push_back(
                std::string("tensor '") + name + "' has type " + ggml_type_name(gguf_get_tensor_type(gguf.get(), i)) +
                ", expected f32, f16, bf16 or q8_0");
            continue;
        }
        const uint64_t n_bytes = ggml_nbytes(tensor);
        if (ggml_nelements(tensor) <= 0 || offset > file_size || data_offset > file_size - offset ||
            n_bytes > file_size - offset - data_offset) {
            faults.push_back(std::string("tensor '") + name + "' reaches past the end of the file (truncated?)");
            continue;
        }
        shapes[name] = torch_shape(tensor);
    }
    for (const std::string & fault : check_layout(shapes, result.config)) {
        faults.push_back(fault);
    }

    std::ifstream file(fs_path, std::ios::binary);
    for (int64_t i = 0; i < n_tensors && file; ++i) {
        const char * name = gguf_get_tensor_name(gguf.get(), i);
        const auto it = shapes.find(name);
        if (it != shapes.end()) {
            host_tensor & out = result.tensors[name];
            out.shape = it->second;
            read_tensor(
                file, ggml_get_tensor(ggml.get(), name), data_offset + gguf_get_tensor_offset(gguf.get(), i), out,
                faults);
        }
    }
    if (!faults.empty()) {
        throw sidecar_error(faults_message(subject, faults));
    }
    return result;
}

} // namespace metadeploy
