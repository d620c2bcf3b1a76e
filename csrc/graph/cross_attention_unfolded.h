// The cross-attention without folding, as a framework computes it: at every token, it computes keys and values of the
// cognitive tokens again, and the query through two projections. The folded form is measured against it. It has no
// other use.
#pragma once

#include "graph/cross_attention.h"
#include "sidecar/sidecar.h"

#include "ggml-backend.h"
#include "ggml-cpp.h"

#include <functional>
#include <map>
#include <vector>

namespace metadeploy {

class cross_attention_unfolded {
public:
    // place: in which buffer type the weights of block il live. Throws sidecar_error if there is no memory for them.
    cross_attention_unfolded(const sidecar & source, const std::function<ggml_backend_buffer_type_t(int il)> & place);

    // cur: F32 [n_embd, n_tokens], all of one sequence; cog: F32 [n_embd, n_cog]; gain: F32 [1, 1, n_tokens]
    ca_result build(ggml_context * ctx, int il, ggml_tensor * cur, ggml_tensor * cog, ggml_tensor * gain) const;

private:
    struct weights {          // F32, of one layer; B = bottleneck
        ggml_tensor * norm_w; // [n_embd]
        ggml_tensor * norm_b; // [n_embd]
        ggml_tensor * down;   // [n_embd, B]
        ggml_tensor * q;      // [B, B]
        ggml_tensor * k;      // [n_embd, B]
        ggml_tensor * v;      // [n_embd, B]
        ggml_tensor * up;     // [B, n_embd]
        ggml_tensor * gate;   // [1]
        ggml_tensor * pref;   // [n_cog]
    };

    const int64_t n_head;
    std::map<ggml_backend_buffer_type_t, ggml_context_ptr> ctxs;
    std::vector<ggml_backend_buffer_ptr> bufs;
    std::map<int, weights> layers;
};

} // namespace metadeploy
