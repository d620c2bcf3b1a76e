// BottleneckCrossAttention, folded (docs/mechanisms.md, "What the injection costs").
//
// Cognitive tokens are constants for a whole answer, so everything but the LayerNorm, a softmax over the tokens and two
// thin matrix products is done once per prompt. With n = (h - mean) / std, for head h and token c:
//
//     score[h,c] = w[h,c] · n + b[h,c]        delta = gain · sum over h,c of softmax_c(score[h,·])[c] · u[h,c]
#pragma once

#include "ggml.h"

namespace metadeploy {

// Constants of one layer, computed when the sidecar is loaded. B = n_bottleneck, head_dim = B / n_head.
struct ca_weights {
    ggml_tensor * q_w =
        nullptr; // F32 [head_dim, n_embd, n_head] q_proj · down_proj · diag(norm.weight) / sqrt(head_dim)
    ggml_tensor * q_b = nullptr;  // F32 [head_dim, 1, n_head]      q_proj · down_proj · norm.bias / sqrt(head_dim)
    ggml_tensor * k = nullptr;    // F32 [n_embd, B]                k_proj
    ggml_tensor * v = nullptr;    // F32 [n_embd, B]                v_proj
    ggml_tensor * up = nullptr;   // F32 [head_dim, n_embd, n_head] tanh(gate) · up_proj
    ggml_tensor * pref = nullptr; // F32 [n_cog]                    token_preference
};

// What the injection reads; filled once per prompt. Of n_seq sequences, one behind the other.
struct ca_tables {
    ggml_tensor * w = nullptr; // F32 [n_embd, n_cog*n_head, n_seq]
    ggml_tensor * b = nullptr; // F32 [n_cog, n_head, n_seq]
    ggml_tensor * u = nullptr; // F32 [n_cog*n_head, n_embd, n_seq]
};

// those of some of the sequences
ca_tables view_tables(ggml_context * ctx, const ca_tables & tables, int64_t first, int64_t n_seq);

// Adds to gf the nodes that fill the tables of one sequence from its cognitive tokens, F32 [n_embd, n_cog].
// slot: I32 [1], which one of those in tables.
void build_fold(
    ggml_context * ctx,
    ggml_cgraph * gf,
    const ca_weights & weights,
    ggml_tensor * cog,
    const ca_tables & tables,
    ggml_tensor * slot);

struct ca_result {
    ggml_tensor * out;  // F32 [n_embd, n_tokens], cur + injection
    ggml_tensor * attn; // F32 [n_cog, n_head, n_tokens], the attention over the cognitive tokens
};

// cur: F32 [n_embd, n_tokens], an equal share of the tokens for each sequence of tables, sequence after sequence;
// gain: F32 [1, 1, n_tokens], the strength for each token.
ca_result build_injection(ggml_context * ctx, ggml_tensor * cur, const ca_tables & tables, ggml_tensor * gain);

// The same for tokens of any sequences. slot: I32 [1, n_tokens], whose tables each token reads.
ca_result build_injection_by_token(
    ggml_context * ctx, ggml_tensor * cur, const ca_tables & tables, ggml_tensor * gain, ggml_tensor * slot);

// upper bound of the tensors that either makes, or the unfolded form, views included
inline constexpr int CA_INJECTION_MAX_NODES = 32;

} // namespace metadeploy
