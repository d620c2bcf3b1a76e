#include "graph/encoder.h"

namespace metadeploy {

// one cognitive token for each target layer, scaled by the layer's own gate
ggml_tensor * build_encoder_selective(const encoder_weights & weights, const std::vector<ggml_tensor *> & activations) {
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

} // namespace metadeploy
