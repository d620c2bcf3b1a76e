// Adds our nodes to llama.cpp's graphs at the end of a block: taps in the clean pass, the injection in pass 2. The
// interface of the hook is the whole patch to llama.cpp (vendor/patches).
#pragma once

#include "graph/cross_attention_unfolded.h"
#include "model/answer_taps.h"
#include "model/hidden_cache.h"
#include "model/sequence.h"
#include "model/wrapper.h"

#include "llama-graph.h"

#include <map>
#include <memory>
#include <string>
#include <vector>

namespace metadeploy {

// Tensors for values that the graph computes at every token of a prompt, by position. For inspection: it is slow.
struct capture {
    std::map<int, ggml_tensor *> blocks;    // by layer, F32 [n_embd, n_tokens]: output of the block, injection included
    std::map<int, ggml_tensor *> attention; // by layer, F32 [n_cog*n_head, n_tokens]: attention over cognitive tokens
};

class block_hook : public llm_block_hook {
public:
    // meta: may be nullptr, then there are only captures. seqs: by id. Both must outlive the hook.
    block_hook(wrapper * meta, std::vector<sequence> & seqs, int32_t n_layer)
        : meta(meta), seqs(seqs), n_layer(n_layer) {}

    // The plan of its sequence says what happens to a token. These hold for all tokens of later decode calls:
    bool largest = false;                 // build the largest graphs that there can be, to reserve memory
    std::unique_ptr<hidden_cache> hidden; // null without a wrapper
    const cross_attention_unfolded * unfolded = nullptr; // replaces the tables, if set
    const answer_taps * answers = nullptr;               // reads prompts and answers, if set

    // Copies the values of all tokens to these tensors; nullptr: stop.
    void set_capture(const capture * next) {
        cap = next;
        ++n_captures;
    }

    cache_mode hidden_mode() const { return hidden ? hidden->mode() : cache_mode::off; }

    // The blocks for which the architecture called the hook so far, by layer. The text says why the tensor that it
    // passed is not usable, or is empty.
    const std::map<int, std::string> & seen() const { return seen_layers; }

    ggml_tensor * on_block(const llm_graph_context & graph, ggml_tensor * cur, int il) override;
    uint32_t max_nodes() const override;

private:
    friend class block_hook_input;

    class block_hook_input * input_of(const llm_graph_context & graph);
    const sequence & sequence_of(const llama_ubatch & ubatch, uint32_t i) const; // of its token i

    wrapper * const meta;
    std::vector<sequence> & seqs;
    const int32_t n_layer;
    const capture * cap = nullptr;
    int64_t n_captures = 0; // tells one capture from the next, which may lie at the same address
    std::map<int, std::string> seen_layers;
};

} // namespace metadeploy
