// Small wrappers with random weights, in memory and as the bytes of a GGUF file, written without ggml.
#pragma once

#include "sidecar/layout.h"
#include "sidecar/sidecar.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace metadeploy::testing {

// the same numbers on every machine, roughly uniform in [-1, 1]
class random_source {
public:
    explicit random_source(uint64_t seed) : state(seed * 2654435761u + 1) {}

    float next() {
        state = state * 6364136223846793005ull + 1442695040888963407ull;
        return (float)((double)(state >> 33) / (double)(1ull << 30) - 1.0);
    }

    std::vector<float> vector(int64_t n, float scale = 1.0f, float centre = 0.0f) {
        std::vector<float> values((size_t)n);
        for (float & value : values) {
            value = centre + scale * next();
        }
        return values;
    }

private:
    uint64_t state;
};

struct sizes {
    int64_t n_embd = 24;
    int64_t n_enc = 12;
    int64_t n_bottleneck = 8;
    int64_t n_cog = 3; // multi_token; the others have one for each target layer
    int64_t n_ca_head = 2;
    int64_t n_enc_head = 3;
    int64_t n_ff = 10;
    std::vector<int32_t> target_layers = {2, 1, 4};
    std::vector<int32_t> cross_attn_layers = {1, 3};
};

inline sidecar random_wrapper(encoder_type encoder, uint64_t seed = 1, const sizes & size = {}) {
    sidecar result;
    result.path = "in memory";
    wrapper_config & config = result.config;
    config.encoder = encoder;
    config.n_embd = size.n_embd;
    config.n_enc = size.n_enc;
    config.n_bottleneck = size.n_bottleneck;
    const auto n_target = (int64_t)size.target_layers.size();
    config.n_cog = encoder == encoder_type::multi_token ? size.n_cog : n_target;
    config.n_ca_head = size.n_ca_head;
    config.n_enc_head = size.n_enc_head;
    config.target_layers = size.target_layers;
    config.cross_attn_layers = size.cross_attn_layers;

    layout dims;
    dims.encoder = encoder;
    dims.sizes = {{'D', config.n_embd}, {'E', config.n_enc}, {'B', config.n_bottleneck},
                  {'C', config.n_cog},  {'F', size.n_ff},    {'N', n_target}};
    dims.n_projectors = n_target;
    dims.layer_pos_embed = encoder == encoder_type::transformer;
    dims.n_blocks = encoder == encoder_type::transformer ? 2 : 0;
    dims.cross_attn_layers = size.cross_attn_layers;
    random_source random(seed);
    for (const auto & [name, shape] : expected_tensors(dims)) {
        int64_t n = 1;
        for (const int64_t width : shape) {
            n *= width;
        }
        const bool is_norm_weight = shape.size() == 1 && name.size() > 7 && name.substr(name.size() - 7) == ".weight";
        const float scale = shape.size() == 2 ? 1.5f / std::sqrt((float)shape[1]) : 0.5f;
        const std::vector<float> drawn = random.vector(n, scale, is_norm_weight ? 1.0f : 0.0f);
        const std::shared_ptr<float[]> values(new float[drawn.size()]);
        std::copy(drawn.begin(), drawn.end(), values.get());
        result.add(name, shape, values, drawn.size());
    }
    return result;
}

// --- bytes -----------------------------------------------------------------------------------------------------------

template <typename T>
std::string bytes(T value) {
    std::string out(sizeof(T), '\0');
    std::memcpy(out.data(), &value, sizeof(T));
    return out;
}

inline std::string text_bytes(const std::string & text) {
    return bytes<uint64_t>(text.size()) + text;
}

// A GGUF file of which every part can be wrong.
struct gguf_builder {
    struct tensor {
        std::string name;
        std::vector<int64_t> shape; // PyTorch order
        std::string data;
        uint32_t type = 0;   // F32
        int64_t offset = -1; // negative: its own place
    };

    std::string magic = "GGUF";
    uint32_t version = 3;
    std::vector<std::pair<std::string, std::string>> keys; // name, value with its type
    std::vector<tensor> tensors;
    int64_t n_tensors = -1; // negative: as many as there are
    int64_t n_keys = -1;

    static std::string u32(uint32_t value) { return bytes<uint32_t>(4) + bytes(value); }
    static std::string f32(float value) { return bytes<uint32_t>(6) + bytes(value); }
    static std::string str(const std::string & value) { return bytes<uint32_t>(8) + text_bytes(value); }
    static std::string i32s(const std::vector<int32_t> & values) {
        std::string out = bytes<uint32_t>(9) + bytes<uint32_t>(5) + bytes<uint64_t>(values.size());
        for (const int32_t value : values) {
            out += bytes(value);
        }
        return out;
    }

    void set(const std::string & key, const std::string & value) {
        for (auto & [name, old] : keys) {
            if (name == key) {
                old = value;
                return;
            }
        }
        keys.emplace_back(key, value);
    }

    void remove(const std::string & key) {
        for (size_t i = 0; i < keys.size(); ++i) {
            if (keys[i].first == key) {
                keys.erase(keys.begin() + (std::ptrdiff_t)i);
                return;
            }
        }
    }

    tensor & at(const std::string & name) {
        for (tensor & t : tensors) {
            if (t.name == name) {
                return t;
            }
        }
        throw std::out_of_range(name);
    }

    std::string build() const {
        std::string head = magic + bytes(version) +
                           bytes<int64_t>(n_tensors < 0 ? (int64_t)tensors.size() : n_tensors) +
                           bytes<int64_t>(n_keys < 0 ? (int64_t)keys.size() : n_keys);
        for (const auto & [key, value] : keys) {
            head += text_bytes(key) + value;
        }
        std::string body;
        for (const tensor & t : tensors) {
            head += text_bytes(t.name) + bytes<uint32_t>((uint32_t)t.shape.size());
            for (auto it = t.shape.rbegin(); it != t.shape.rend(); ++it) {
                head += bytes<int64_t>(*it);
            }
            head += bytes(t.type) + bytes<uint64_t>(t.offset < 0 ? body.size() : (uint64_t)t.offset);
            body += t.data;
            body.append((32 - body.size() % 32) % 32, '\0');
        }
        head.append((32 - head.size() % 32) % 32, '\0');
        return head + body;
    }
};

inline gguf_builder to_gguf(const sidecar & source) {
    gguf_builder file;
    const wrapper_config & config = source.config;
    file.set("general.architecture", gguf_builder::str("meta-spider"));
    file.set("meta_spider.encoder_type", gguf_builder::str(encoder_type_name(config.encoder)));
    file.set("meta_spider.hidden_dim", gguf_builder::u32((uint32_t)config.n_embd));
    file.set("meta_spider.bottleneck_dim", gguf_builder::u32((uint32_t)config.n_bottleneck));
    file.set("meta_spider.num_cognitive_tokens", gguf_builder::u32(32));
    file.set("meta_spider.ca_num_heads", gguf_builder::u32((uint32_t)config.n_ca_head));
    file.set("meta_spider.enc_num_heads", gguf_builder::u32((uint32_t)config.n_enc_head));
    file.set("meta_spider.target_layers", gguf_builder::i32s(config.target_layers));
    file.set("meta_spider.cross_attn_layers", gguf_builder::i32s(config.cross_attn_layers));
    file.set("meta_spider.refusal_token_ids", gguf_builder::i32s({5, 0, 2}));
    file.set("meta_spider.refusal_bias", gguf_builder::f32(1.5f));
    for (const auto & [name, tensor] : source.tensors) {
        const auto * raw = reinterpret_cast<const char *>(tensor.data.data());
        file.tensors.push_back({name, tensor.shape, std::string(raw, tensor.data.size() * sizeof(float))});
    }
    return file;
}

} // namespace metadeploy::testing
