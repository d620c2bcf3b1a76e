#include "graph/cross_attention_unfolded.h"

#include "errors.h"
#include "graph/encoder.h"

#include <cmath>
#include <string>
#include <utility>

namespace metadeploy {

cross_attention_unfolded::cross_attention_unfolded(
    const sidecar & source, const std::function<ggml_backend_buffer_type_t(int il)> & place)
    : n_head(source.config.n_ca_head) {
    constexpr size_t N_WEIGHTS = 9;
    std::vector<std::pair<ggml_tensor *, const sidecar_tensor *>> uploads;
    for (const int il : source.config.cross_attn_layers) {
        ggml_context_ptr & ctx = ctxs[place(il)];
        if (!ctx) {
            const size_t n_tensors = N_WEIGHTS * source.config.cross_attn_layers.size();
            ctx.reset(ggml_init({n_tensors * ggml_tensor_overhead(), nullptr, true}));
        }
        const auto load = [&](const char * name) { // PyTorch's [out, in] are ggml's [in, out]
            const sidecar_tensor & from = source.tensors.at("ca." + std::to_string(il) + "." + name);
            const int64_t n_in = from.shape.back();
            ggml_tensor * tensor = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, n_in, (int64_t)from.data.size() / n_in);
            uploads.emplace_back(tensor, &from);
            return tensor;
        };
        layers[il] = {load("norm.weight"),    load("norm.bias"),     load("down_proj.weight"),
                      load("q_proj.weight"),  load("k_proj.weight"), load("v_proj.weight"),
                      load("up_proj.weight"), load("gate"),          load("token_preference")};
    }
    for (const auto & [buft, ctx] : ctxs) {
        ggml_backend_buffer_ptr buf(ggml_backend_alloc_ctx_tensors_from_buft(ctx.get(), buft));
        if (!buf) {
            throw sidecar_error("sidecar '" + source.path + "': not enough memory for its weights, unfolded");
        }
        bufs.push_back(std::move(buf));
    }
    for (const auto & [tensor, from] : uploads) {
        ggml_backend_tensor_set(tensor, from->data.data(), 0, ggml_nbytes(tensor));
    }
}

ca_result cross_attention_unfolded::build(
    ggml_context * ctx, int il, ggml_tensor * cur, ggml_tensor * cog, ggml_tensor * gain) const {
    const weights & w = layers.at(il);
    const int64_t n_bottleneck = w.q->ne[0];
    const int64_t head_dim = n_bottleneck / n_head;
    const int64_t n_tokens = cur->ne[1];
    const int64_t n_cog = cog->ne[1];
    const auto by_head = [&](ggml_tensor * x, int64_t n) { // [B, n] to [head_dim, n_head, n]
        return ggml_reshape_3d(ctx, x, head_dim, n_head, n);
    };

    ggml_tensor * x = ggml_norm(ctx, cur, LAYER_NORM_EPS);
    x = ggml_add(ctx, ggml_mul(ctx, x, w.norm_w), w.norm_b);
    ggml_tensor * q = by_head(ggml_mul_mat(ctx, w.q, ggml_mul_mat(ctx, w.down, x)), n_tokens);
    ggml_tensor * k = by_head(ggml_mul_mat(ctx, w.k, cog), n_cog);
    ggml_tensor * v = by_head(ggml_mul_mat(ctx, w.v, cog), n_cog);
    q = ggml_permute(ctx, q, 0, 2, 1, 3);                 // [head_dim, n_tokens, n_head]
    k = ggml_permute(ctx, k, 0, 2, 1, 3);                 // [head_dim, n_cog, n_head]
    v = ggml_cont(ctx, ggml_permute(ctx, v, 1, 2, 0, 3)); // [n_cog, head_dim, n_head]

    ggml_tensor * score = ggml_mul_mat(ctx, k, q); // [n_cog, n_tokens, n_head]
    score = ggml_add(ctx, ggml_scale(ctx, score, 1.0f / std::sqrt((float)head_dim)), w.pref);
    ggml_tensor * attn = ggml_soft_max(ctx, score);
    // the strength goes to the few weights and not to the many values, which comes to the same
    ggml_tensor * strength = ggml_mul(ctx, ggml_reshape_2d(ctx, gain, 1, n_tokens), ggml_tanh(ctx, w.gate));
    ggml_tensor * mixed = ggml_mul_mat(ctx, v, ggml_mul(ctx, attn, strength)); // [head_dim, n_tokens, n_head]
    mixed = ggml_cont_2d(ctx, ggml_permute(ctx, mixed, 0, 2, 1, 3), n_bottleneck, n_tokens);
    ggml_tensor * delta = ggml_mul_mat(ctx, w.up, mixed); // [n_embd, n_tokens]
    return {ggml_add(ctx, cur, delta), ggml_cont(ctx, ggml_permute(ctx, attn, 0, 2, 1, 3))};
}

} // namespace metadeploy
