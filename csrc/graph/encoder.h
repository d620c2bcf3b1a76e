// The encoders as ggml graphs: activations of the target layers in, cognitive tokens out (docs/architecture.md).
// The mathematics is the same as in metadeploy/reference/encoders.py.
#pragma once

#include "sidecar/sidecar.h"

#include "ggml.h"

#include <functional>
#include <string>
#include <vector>

namespace metadeploy {

// PyTorch's default for LayerNorm
inline constexpr float LAYER_NORM_EPS = 1e-5f;

// the weights of one encoder, by their names in the checkpoint
class encoder_weights {
public:
    using lookup = std::function<ggml_tensor *(const std::string & name)>; // nullptr: no such tensor

    encoder_weights(ggml_context * ctx, const wrapper_config & config, lookup find)
        : ctx(ctx), config(config), find(std::move(find)) {}

    ggml_context * const ctx;
    const wrapper_config & config;

    ggml_tensor * get(const std::string & name) const { return find(name); }

    bool has(const std::string & name) const { return find(name) != nullptr; }

    // W x + b, without b if there is none
    ggml_tensor * linear(const std::string & name, ggml_tensor * x) const;

    // LayerNorm over the first dimension
    ggml_tensor * layer_norm(const std::string & name, ggml_tensor * x) const;

    // activation of target layer i, F32 [n_embd], to F32 [n_enc]: LayerNorm + Linear + GELU, or a plain Linear
    ggml_tensor * project(int64_t i, ggml_tensor * activation) const;

    // all target layers, F32 [n_enc, n_target]
    ggml_tensor * project_all(const std::vector<ggml_tensor *> & activations) const;

    // LayerNorm + Linear + GELU + Linear, then LayerNorm: F32 [n_enc, n_cog] to F32 [n_embd, n_cog]
    ggml_tensor * output(ggml_tensor * x) const;

private:
    lookup find;
};

// activations: one F32 [n_embd] for each target layer. Returns the cognitive tokens, F32 [n_embd, n_cog].
ggml_tensor * build_encoder(const encoder_weights & weights, const std::vector<ggml_tensor *> & activations);

} // namespace metadeploy
