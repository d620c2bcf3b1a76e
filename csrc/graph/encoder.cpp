#include "graph/encoder.h"

#include <cmath>

namespace metadeploy {

ggml_tensor * encoder_weights::linear(const std::string & name, ggml_tensor * x) const {
    ggml_tensor * cur = ggml_mul_mat(ctx, get(name + ".weight"), x);
    ggml_prec_set_acc(cur, GGML_PREC_F32);
    if (ggml_tensor * bias = get(name + ".bias")) {
        cur = ggml_add(ctx, cur, bias);
    }
    return cur;
}

ggml_tensor * encoder_weights::layer_norm(const std::string & name, ggml_tensor * x) const {
    ggml_tensor * cur = ggml_norm(ctx, x, LAYER_NORM_EPS);
    cur = ggml_mul(ctx, cur, get(name + ".weight"));
    return ggml_add(ctx, cur, get(name + ".bias"));
}

ggml_tensor * encoder_weights::project(int64_t i, ggml_tensor * activation) const {
    std::string name = "shared_projector";
    if (!has(name + ".weight") && !has(name + ".1.weight")) {
        name = "layer_projectors." + std::to_string(i);
    }
    if (has(name + ".weight")) {
        return linear(name, activation);
    }
    return ggml_gelu_erf(ctx, linear(name + ".1", layer_norm(name + ".0", activation)));
}

ggml_tensor * encoder_weights::project_all(const std::vector<ggml_tensor *> & activations) const {
    ggml_tensor * all = nullptr;
    for (size_t i = 0; i < activations.size(); ++i) {
        ggml_tensor * cur = project((int64_t)i, activations[i]); // F32 [n_enc]
        all = all ? ggml_concat(ctx, all, cur, 1) : cur;
    }
    return all;
}

ggml_tensor * encoder_weights::output(ggml_tensor * x) const {
    ggml_tensor * cur = layer_norm("output_proj.0", x);
    cur = ggml_gelu_erf(ctx, linear("output_proj.1", cur));
    cur = linear("output_proj.3", cur);
    return layer_norm("output_norm", cur);
}

namespace {

// Multi-head attention without mask over q F32 [n, n_q], k and v F32 [n, n_kv]; returns F32 [n, n_q], heads
// concatenated.
ggml_tensor * build_attention(ggml_context * ctx, ggml_tensor * q, ggml_tensor * k, ggml_tensor * v, int64_t n_head) {
    const int64_t n = q->ne[0];
    const int64_t n_q = q->ne[1];
    const int64_t n_kv = k->ne[1];
    const int64_t n_embd_head = n / n_head;

    q = ggml_permute(ctx, ggml_reshape_3d(ctx, q, n_embd_head, n_head, n_q), 0, 2, 1, 3); // [n_embd_head, n_q, n_head]
    k = ggml_permute(
        ctx, ggml_reshape_3d(ctx, k, n_embd_head, n_head, n_kv), 0, 2, 1, 3); // [n_embd_head, n_kv, n_head]
    v = ggml_cont(
        ctx, ggml_permute(
                 ctx, ggml_reshape_3d(ctx, v, n_embd_head, n_head, n_kv), 1, 2, 0, 3)); // [n_kv, n_embd_head, n_head]

    ggml_tensor * kq = ggml_mul_mat(ctx, k, q); // F32 [n_kv, n_q, n_head]
    ggml_prec_set_acc(kq, GGML_PREC_F32);
    kq = ggml_soft_max_ext(ctx, kq, nullptr, 1.0f / std::sqrt((float)n_embd_head), 0.0f);
    ggml_tensor * kqv = ggml_mul_mat(ctx, v, kq); // F32 [n_embd_head, n_q, n_head]
    ggml_prec_set_acc(kqv, GGML_PREC_F32);
    return ggml_cont_2d(ctx, ggml_permute(ctx, kqv, 0, 2, 1, 3), n, n_q);
}

// one cognitive token for each target layer, scaled by the layer's own gate
ggml_tensor * build_selective(const encoder_weights & weights, const std::vector<ggml_tensor *> & activations) {
    ggml_context * ctx = weights.ctx;
    ggml_tensor * all = nullptr;
    for (size_t i = 0; i < activations.size(); ++i) {
        ggml_tensor * cur = weights.project((int64_t)i, activations[i]); // F32 [n_enc]
        ggml_tensor * gate = ggml_tanh(ctx, weights.get("layer_gates." + std::to_string(i)));
        cur = ggml_mul(ctx, cur, gate);
        all = all ? ggml_concat(ctx, all, cur, 1) : cur;
    }
    return weights.output(all);
}

// learned queries attend to the projected activations: as many cognitive tokens as queries
ggml_tensor * build_multi_token(const encoder_weights & weights, const std::vector<ggml_tensor *> & activations) {
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

// a small pre-norm transformer over the projected activations, one token for each target layer
ggml_tensor * build_transformer(const encoder_weights & weights, const std::vector<ggml_tensor *> & activations) {
    ggml_context * ctx = weights.ctx;
    ggml_tensor * x = weights.project_all(activations); // F32 [n_enc, n_cog]
    if (ggml_tensor * pos = weights.get("layer_pos_embed")) {
        x = ggml_add(ctx, x, pos);
    }
    x = weights.layer_norm("input_norm", x);

    for (int b = 0; weights.has("blocks." + std::to_string(b) + ".norm_attn.weight"); ++b) {
        const std::string block = "blocks." + std::to_string(b);
        ggml_tensor * h = weights.layer_norm(block + ".norm_attn", x);
        h = build_attention(
            ctx, weights.linear(block + ".q_proj", h), weights.linear(block + ".k_proj", h),
            weights.linear(block + ".v_proj", h), weights.config.n_enc_head);
        x = ggml_add(ctx, x, weights.linear(block + ".o_proj", h));

        h = weights.layer_norm(block + ".norm_ffn", x);
        h = ggml_gelu_erf(ctx, weights.linear(block + ".ffn.0", h));
        x = ggml_add(ctx, x, weights.linear(block + ".ffn.2", h));
    }
    return weights.output(x);
}

} // namespace

ggml_tensor * build_encoder(const encoder_weights & weights, const std::vector<ggml_tensor *> & activations) {
    switch (weights.config.encoder) {
    case encoder_type::selective:
        return build_selective(weights, activations);
    case encoder_type::multi_token:
        return build_multi_token(weights, activations);
    case encoder_type::transformer:
        return build_transformer(weights, activations);
    }
    return nullptr;
}

} // namespace metadeploy
