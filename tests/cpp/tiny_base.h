// A base model of 3 blocks and width 32 with random weights and a vocabulary of single bytes, as the bytes of a GGUF
// file.
#pragma once

#include "wrappers.h"

#include <string>
#include <vector>

namespace metadeploy::testing {

// GPT-2's names for single bytes: printable bytes keep their character, the others get characters from U+0100 on
inline std::vector<std::string> byte_tokens() {
    std::vector<std::string> tokens;
    int next = 0x100;
    for (int byte = 0; byte < 256; ++byte) {
        const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
        const int code = printable ? byte : next++;
        tokens.push_back(
            code < 0x80 ? std::string(1, (char)code)
                        : std::string{(char)(0xC0 | (code >> 6)), (char)(0x80 | (code & 0x3F))});
    }
    return tokens;
}

inline std::string strings(const std::vector<std::string> & texts) {
    std::string out = bytes<uint32_t>(9) + bytes<uint32_t>(8) + bytes<uint64_t>(texts.size());
    for (const std::string & text : texts) {
        out += text_bytes(text);
    }
    return out;
}

inline gguf_builder tiny_base(const std::string & chat_template) {
    constexpr int64_t n_layer = 3;
    constexpr int64_t n_embd = 32;
    constexpr int64_t n_ff = 64;
    std::vector<std::string> tokens = byte_tokens();
    const std::string merge = tokens['a'] + " " + tokens['b']; // llama.cpp expects at least one
    tokens.insert(tokens.end(), {"ab", "<bos>", "<eos>"});
    const auto n_vocab = (int64_t)tokens.size();
    std::vector<int32_t> types(tokens.size(), 1);
    types[257] = types[258] = 3; // control

    gguf_builder file;
    file.set("general.architecture", gguf_builder::str("llama"));
    file.set("llama.context_length", gguf_builder::u32(256));
    file.set("llama.embedding_length", gguf_builder::u32(n_embd));
    file.set("llama.block_count", gguf_builder::u32(n_layer));
    file.set("llama.feed_forward_length", gguf_builder::u32(n_ff));
    file.set("llama.attention.head_count", gguf_builder::u32(2));
    file.set("llama.attention.head_count_kv", gguf_builder::u32(1));
    file.set("llama.attention.layer_norm_rms_epsilon", gguf_builder::f32(1e-5f));
    file.set("llama.rope.dimension_count", gguf_builder::u32(16));
    file.set("llama.vocab_size", gguf_builder::u32((uint32_t)n_vocab));
    file.set("tokenizer.ggml.model", gguf_builder::str("gpt2"));
    file.set("tokenizer.ggml.pre", gguf_builder::str("default"));
    file.set("tokenizer.ggml.tokens", strings(tokens));
    file.set("tokenizer.ggml.token_type", gguf_builder::i32s(types));
    file.set("tokenizer.ggml.merges", strings({merge}));
    file.set("tokenizer.ggml.bos_token_id", gguf_builder::u32(257));
    file.set("tokenizer.ggml.eos_token_id", gguf_builder::u32(258));
    file.set("tokenizer.chat_template", gguf_builder::str(chat_template));

    random_source random(7);
    const auto add = [&](const std::string & name, const std::vector<int64_t> & shape) {
        const bool is_norm = shape.size() == 1;
        const int64_t n = is_norm ? shape[0] : shape[0] * shape[1];
        const float scale = is_norm ? 0.1f : 1.7f / std::sqrt((float)shape[1]);
        const std::vector<float> values = random.vector(n, scale, is_norm ? 1.0f : 0.0f);
        file.tensors.push_back(
            {name + ".weight", shape, std::string(reinterpret_cast<const char *>(values.data()), (size_t)n * 4)});
    };
    add("token_embd", {n_vocab, n_embd});
    add("output_norm", {n_embd});
    add("output", {n_vocab, n_embd});
    for (int64_t i = 0; i < n_layer; ++i) {
        const std::string block = "blk." + std::to_string(i) + ".";
        add(block + "attn_norm", {n_embd});
        add(block + "attn_q", {n_embd, n_embd});
        add(block + "attn_k", {n_embd / 2, n_embd});
        add(block + "attn_v", {n_embd / 2, n_embd});
        add(block + "attn_output", {n_embd, n_embd});
        add(block + "ffn_norm", {n_embd});
        add(block + "ffn_gate", {n_ff, n_embd});
        add(block + "ffn_up", {n_ff, n_embd});
        add(block + "ffn_down", {n_embd, n_ff});
    }
    return file;
}

} // namespace metadeploy::testing
