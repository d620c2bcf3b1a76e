// What the runtime adds to llama.cpp's graphs at the end of a block: taps in the clean pass, injection in the other.
// The hook's own interface is the whole patch to llama.cpp (vendor/patches).
#pragma once

#include "runtime/wrapper.h"

#include "llama-graph.h"

#include <map>
#include <string>
#include <vector>

namespace metadeploy {

// What to do with the tokens of the decode calls that follow. One sequence is alive at a time.
struct pass_plan {
    static constexpr llama_pos NEVER = INT32_MAX;

    bool inject = false;
    float gain = 1.0f;
    llama_pos inject_from = 0;   // tokens before this position stay clean
    llama_pos tap_at = NEVER;    // position whose block outputs go to the taps
    bool capture_blocks = false; // copy block outputs of all tokens to the capture's tensors
};

// Tensors that hold what the graph computed for every token of a prompt, by position; for looking at, not for speed.
struct capture {
    std::map<int, ggml_tensor *> blocks;    // by layer, F32 [n_embd, n_tokens]: output of the block, injection included
    std::map<int, ggml_tensor *> attention; // by layer, F32 [n_cog*n_head, n_tokens]: attention over cognitive tokens
};

class seam : public llm_block_hook {
public:
    // meta: may be nullptr, then only captures are made. It must outlive the seam.
    seam(wrapper * meta, int32_t n_layer) : meta(meta), n_layer(n_layer) {}

    pass_plan plan;
    const capture * cap = nullptr;

    // Which blocks the architecture showed us since the hook was attached, by layer; the text says what is wrong with
    // the tensor it handed over, or is empty.
    const std::map<int, std::string> & seen() const { return seen_layers; }

    ggml_tensor * on_block(const llm_graph_context & graph, ggml_tensor * cur, int il) override;
    uint32_t max_nodes() const override;

private:
    friend class seam_input;

    class seam_input * input_of(const llm_graph_context & graph);

    wrapper * const meta;
    const int32_t n_layer;
    std::map<int, std::string> seen_layers;
};

} // namespace metadeploy
