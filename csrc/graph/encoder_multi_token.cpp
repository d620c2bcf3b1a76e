#include "graph/encoder.h"

namespace metadeploy {

// learnt queries attend to the projected activations: as many cognitive tokens as queries
ggml_tensor * build_encoder_multi_token(
    const encoder_weights & weights, const std::vector<ggml_tensor *> & activations) {
    ggml_context * ctx = weights.ctx;
    const int64_t n_enc = weights.config.n_enc;
    ggml_tensor * kv = weights.project_all(activations); // F32 [n_enc, n_target]

    ggml_tensor * w = weights.get("cross_attn.in_proj_weight"); // [n_enc, 3*n_enc]: Wq, Wk, Wv
    ggml_tensor * b = weights.get("cross_attn.in_proj_bias");   // [3*n_enc]
    const auto in_proj = [&](int64_t part, ggml_tensor * x) {
        ggml_tensor * w_part = ggml_view_2d(ctx, w, n_enc, n_enc, w->nb[1], part * n_enc * w->nb[1]);
        ggml_tensor * b_part = ggml_view_1d(ctx, b, n_enc, part * n_enc * b->nb[0]);
        ggml_tensor * cur = ggml_mul_mat(ctx, w_part, x);
        ggml_prec_set_acc(cur, GGML_PREC_F32);
        return ggml_add(ctx, cur, b_part);
    };
    ggml_tensor * q = in_proj(0, weights.get("queries")); // F32 [n_enc, n_cog]
    ggml_tensor * cur = build_attention(ctx, q, in_proj(1, kv), in_proj(2, kv), weights.config.n_enc_head);
    return weights.output(weights.linear("cross_attn.out_proj", cur));
}

} // namespace metadeploy
