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
    ggml_context * ctx,
    ggml_cgraph * gf,
    const ca_weights & weights,
    ggml_tensor * cog,
    const ca_tables & tables,
    ggml_tensor * slot) {
    const int64_t head_dim = weights.q_w->ne[0];
    const int64_t n_head = weights.q_w->ne[2];
    const int64_t n_cog = cog->ne[1];

    const auto by_head = [&](ggml_tensor * x) { // [B, n_cog] to [head_dim, n_cog, n_head]
        return ggml_cont(ctx, ggml_permute(ctx, ggml_reshape_3d(ctx, x, head_dim, n_head, n_cog), 0, 2, 1, 3));
    };
    const auto put = [&](ggml_tensor * table, ggml_tensor * values) { // a row for each sequence
        const int64_t n = ggml_nelements(values);
        ggml_tensor * rows = ggml_reshape_2d(ctx, table, n, table->ne[2]);
        ggml_build_forward_expand(gf, ggml_set_rows(ctx, rows, ggml_reshape_2d(ctx, values, n, 1), slot));
    };
    ggml_tensor * k = by_head(mul_mat_f32(ctx, weights.k, cog));
    ggml_tensor * v = by_head(mul_mat_f32(ctx, weights.v, cog));

    put(tables.w, mul_mat_f32(ctx, weights.q_w, k)); // [n_embd, n_cog, n_head]

    ggml_tensor * b = mul_mat_f32(ctx, k, weights.q_b); // [n_cog, 1, n_head]
    put(tables.b, ggml_add(ctx, ggml_reshape_2d(ctx, b, n_cog, n_head), weights.pref));

    ggml_tensor * u = mul_mat_f32(ctx, weights.up, v);               // [n_embd, n_cog, n_head]
    put(tables.u, ggml_cont(ctx, ggml_permute(ctx, u, 2, 0, 1, 3))); // [n_cog, n_head, n_embd]
}

ca_tables view_tables(ggml_context * ctx, const ca_tables & tables, int64_t first, int64_t n_seq) {
    const auto part = [&](ggml_tensor * all) {
        if (n_seq == all->ne[2]) {
            return all;
        }
        return ggml_view_3d(
            ctx, all, all->ne[0], all->ne[1], n_seq, all->nb[1], all->nb[2], (size_t)first * all->nb[2]);
    };
    return {part(tables.w), part(tables.b), part(tables.u)};
}

ca_result build_injection(ggml_context * ctx, ggml_tensor * cur, const ca_tables & tables, ggml_tensor * gain) {
    const int64_t n_embd = cur->ne[0];
    const int64_t n_cog = tables.b->ne[0];
    const int64_t n_head = tables.b->ne[1];
    const int64_t n_seq = tables.b->ne[2];
    const int64_t n_tokens = cur->ne[1] / n_seq; // of each

    ggml_tensor * n = ggml_norm(ctx, cur, LAYER_NORM_EPS);
    n = ggml_reshape_3d(ctx, n, n_embd, n_tokens, n_seq);
    ggml_tensor * score = mul_mat_f32(ctx, tables.w, n); // [n_cog*n_head, n_tokens, n_seq]
    score = ggml_reshape_4d(ctx, score, n_cog, n_head, n_tokens, n_seq);
    // the bias of the scores goes in as the mask, which broadcasts over the tokens: one node less
    ggml_tensor * mask = ggml_reshape_4d(ctx, tables.b, n_cog, n_head, 1, n_seq);
    ggml_tensor * attn = ggml_soft_max_ext(ctx, score, mask, 1.0f, 0.0f);
    ggml_tensor * p = ggml_mul(ctx, attn, ggml_reshape_4d(ctx, gain, 1, 1, n_tokens, n_seq));
    p = ggml_reshape_3d(ctx, p, n_cog * n_head, n_tokens, n_seq);
    ggml_tensor * delta = mul_mat_f32(ctx, tables.u, p); // [n_embd, n_tokens, n_seq]
    delta = ggml_reshape_2d(ctx, delta, n_embd, n_tokens * n_seq);
    return {ggml_add(ctx, cur, delta), ggml_reshape_3d(ctx, attn, n_cog, n_head, n_tokens * n_seq)};
}

ca_result build_injection_by_token(
    ggml_context * ctx, ggml_tensor * cur, const ca_tables & tables, ggml_tensor * gain, ggml_tensor * slot) {
    const int64_t n_embd = cur->ne[0];
    const int64_t n_cog = tables.b->ne[0];
    const int64_t n_head = tables.b->ne[1];
    const int64_t n_tokens = cur->ne[1];

    // the table of a sequence is like the weights of an expert: each token goes through the table of its own sequence
    const auto by_slot = [&](ggml_tensor * table, ggml_tensor * x) { // x: [table->ne[0], 1, n_tokens]
        ggml_tensor * y = ggml_mul_mat_id(ctx, table, x, slot);
        ggml_prec_set_acc(y, GGML_PREC_F32);
        return y; // [table->ne[1], 1, n_tokens]
    };
    ggml_tensor * n = ggml_norm(ctx, cur, LAYER_NORM_EPS);
    ggml_tensor * score = by_slot(tables.w, ggml_reshape_3d(ctx, n, n_embd, 1, n_tokens));
    score = ggml_add_id(ctx, score, ggml_reshape_2d(ctx, tables.b, n_cog * n_head, tables.b->ne[2]), slot);
    ggml_tensor * attn = ggml_soft_max(ctx, ggml_reshape_3d(ctx, score, n_cog, n_head, n_tokens));
    ggml_tensor * p = ggml_mul(ctx, attn, gain);
    ggml_tensor * delta = by_slot(tables.u, ggml_reshape_3d(ctx, p, n_cog * n_head, 1, n_tokens));
    return {ggml_add(ctx, cur, ggml_reshape_2d(ctx, delta, n_embd, n_tokens)), attn};
}

} // namespace metadeploy
