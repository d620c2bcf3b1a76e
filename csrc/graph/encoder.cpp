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

ggml_tensor * build_encoder(const encoder_weights & weights, const std::vector<ggml_tensor *> & activations) {
    switch (weights.config.encoder) {
    case encoder_type::selective:
        return build_encoder_selective(weights, activations);
    case encoder_type::multi_token:
        return build_encoder_multi_token(weights, activations);
    case encoder_type::transformer:
        return build_encoder_transformer(weights, activations);
    }
    return nullptr;
}

} // namespace metadeploy
