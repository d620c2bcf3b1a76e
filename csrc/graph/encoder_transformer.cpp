#include "graph/encoder.h"

namespace metadeploy {

// a small pre-norm transformer over the projected activations, one token for each target layer
ggml_tensor * build_encoder_transformer(
    const encoder_weights & weights, const std::vector<ggml_tensor *> & activations) {
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

} // namespace metadeploy
