#include "graph/cross_attention.h"

#include "graph/encoder.h"

namespace metadeploy {

namespace {

ggml_tensor * mul_mat_f32(ggml_context * ctx, ggml_tensor * a, ggml_tensor * b) {
    ggml_tensor * cur = ggml_mul_mat(ctx, a, b);
    ggml_prec_set_acc(cur, GGML_PREC_F32);
    return cur;
}

} // namespace

void build_fold(
    ggml_context * ctx, ggml_cgraph * gf, const ca_weights & weights, ggml_tensor * cog, const ca_tables & tables) {
    const int64_t head_dim = weights.q_w->ne[0];
    const int64_t n_embd = weights.q_w->ne[1];
    const int64_t n_head = weights.q_w->ne[2];
    const int64_t n_cog = cog->ne[1];

    const auto by_head = [&](ggml_tensor * x) { // [B, n_cog] to [head_dim, n_cog, n_head]
        return ggml_cont(ctx, ggml_permute(ctx, ggml_reshape_3d(ctx, x, head_dim, n_head, n_cog), 0, 2, 1, 3));
    };
    ggml_tensor * k = by_head(mul_mat_f32(ctx, weights.k, cog));
    ggml_tensor * v = by_head(mul_mat_f32(ctx, weights.v, cog));

    ggml_tensor * w = mul_mat_f32(ctx, weights.q_w, k); // [n_embd, n_cog, n_head]
    ggml_build_forward_expand(gf, ggml_cpy(ctx, ggml_reshape_2d(ctx, w, n_embd, n_cog * n_head), tables.w));

    ggml_tensor * b = mul_mat_f32(ctx, k, weights.q_b); // [n_cog, 1, n_head]
    b = ggml_add(ctx, ggml_reshape_2d(ctx, b, n_cog, n_head), weights.pref);
    ggml_build_forward_expand(gf, ggml_cpy(ctx, b, tables.b));

    ggml_tensor * u = mul_mat_f32(ctx, weights.up, v);    // [n_embd, n_cog, n_head]
    u = ggml_cont(ctx, ggml_permute(ctx, u, 2, 0, 1, 3)); // [n_cog, n_head, n_embd]
    ggml_build_forward_expand(gf, ggml_cpy(ctx, ggml_reshape_2d(ctx, u, n_cog * n_head, n_embd), tables.u));
}

ca_result build_injection(ggml_context * ctx, ggml_tensor * cur, const ca_tables & tables, ggml_tensor * gain) {
    const int64_t n_cog = tables.b->ne[0];
    const int64_t n_head = tables.b->ne[1];
    const int64_t n_tokens = cur->ne[1];

    ggml_tensor * n = ggml_norm(ctx, cur, LAYER_NORM_EPS);
    ggml_tensor * score = mul_mat_f32(ctx, tables.w, n); // [n_cog*n_head, n_tokens]
    score = ggml_reshape_3d(ctx, score, n_cog, n_head, n_tokens);
    // the bias of the scores goes in as the mask, which broadcasts over the tokens: one node less
    ggml_tensor * attn = ggml_soft_max_ext(ctx, score, tables.b, 1.0f, 0.0f);
    ggml_tensor * p = ggml_mul(ctx, attn, gain);
    p = ggml_reshape_2d(ctx, p, n_cog * n_head, n_tokens);
    return {ggml_add(ctx, cur, mul_mat_f32(ctx, tables.u, p)), attn};
}

} // namespace metadeploy
