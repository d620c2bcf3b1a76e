// A tiny base model with random weights, as the bytes of a GGUF file.
#pragma once

#include "wrappers.h"

#include <cmath>
#include <string>
#include <utility>
#include <vector>

namespace metadeploy::testing {

inline constexpr int64_t TINY_WIDTH = 32;
inline constexpr int64_t TINY_VOCAB = 64;
inline constexpr int32_t TINY_LAYERS = 3;

inline std::string strings(const std::vector<std::string> & values) {
    std::string out = bytes<uint32_t>(9) + bytes<uint32_t>(8) + bytes<uint64_t>(values.size());
    for (const std::string & value : values) {
        out += text_bytes(value);
    }
    return out;
}

// a llama model with F32 weights; its tokens are ASCII texts
inline gguf_builder tiny_base(uint64_t seed = 3) {
    constexpr int64_t width = TINY_WIDTH;
    constexpr int64_t n_ff = 64;
    gguf_builder file;
    file.set("general.architecture", gguf_builder::str("llama"));
    file.set("llama.context_length", gguf_builder::u32(256));
    file.set("llama.embedding_length", gguf_builder::u32(width));
    file.set("llama.block_count", gguf_builder::u32(TINY_LAYERS));
    file.set("llama.feed_forward_length", gguf_builder::u32(n_ff));
    file.set("llama.attention.head_count", gguf_builder::u32(2));
    file.set("llama.attention.head_count_kv", gguf_builder::u32(1));
    file.set("llama.rope.dimension_count", gguf_builder::u32(width / 2));
    file.set("llama.attention.layer_norm_rms_epsilon", gguf_builder::f32(1e-5f));
    file.set("llama.vocab_size", gguf_builder::u32(TINY_VOCAB));
    std::vector<std::string> tokens;
    for (int64_t i = 0; i < TINY_VOCAB; ++i) {
        tokens.push_back("t" + std::to_string(i));
    }
    file.set("tokenizer.ggml.model", gguf_builder::str("gpt2"));
    file.set("tokenizer.ggml.pre", gguf_builder::str("default"));
    file.set("tokenizer.ggml.tokens", strings(tokens));
    file.set("tokenizer.ggml.token_type", gguf_builder::i32s(std::vector<int32_t>((size_t)TINY_VOCAB, 1)));
    file.set("tokenizer.ggml.merges", strings({"t 0"}));
    file.set("tokenizer.ggml.eos_token_id", gguf_builder::u32(TINY_VOCAB - 1));

    random_source random(seed);
    const auto add = [&](const std::string & name, std::vector<int64_t> shape) {
        const bool is_norm = shape.size() == 1;
        const int64_t n = is_norm ? shape[0] : shape[0] * shape[1];
        const float scale = is_norm ? 0.0f : 1.5f / std::sqrt((float)shape[1]);
        const std::vector<float> values = random.vector(n, scale, is_norm ? 1.0f : 0.0f);
        const auto * raw = reinterpret_cast<const char *>(values.data());
        file.tensors.push_back({name, std::move(shape), std::string(raw, values.size() * sizeof(float))});
    };
    add("token_embd.weight", {TINY_VOCAB, width});
    add("output.weight", {TINY_VOCAB, width});
    add("output_norm.weight", {width});
    for (int32_t il = 0; il < TINY_LAYERS; ++il) {
        const std::string block = "blk." + std::to_string(il) + ".";
        add(block + "attn_norm.weight", {width});
        add(block + "ffn_norm.weight", {width});
        add(block + "attn_q.weight", {width, width});
        add(block + "attn_k.weight", {width / 2, width});
        add(block + "attn_v.weight", {width / 2, width});
        add(block + "attn_output.weight", {width, width});
        add(block + "ffn_gate.weight", {n_ff, width});
        add(block + "ffn_up.weight", {n_ff, width});
        add(block + "ffn_down.weight", {width, n_ff});
    }
    return file;
}

// a wrapper for it
inline sidecar tiny_wrapper(encoder_type encoder, uint64_t seed = 1) {
    sizes size;
    size.n_embd = TINY_WIDTH;
    size.target_layers = {0, 1, 2};
    size.cross_attn_layers = {1, 2};
    return random_wrapper(encoder, seed, size);
}

} // namespace metadeploy::testing
