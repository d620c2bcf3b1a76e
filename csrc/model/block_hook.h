// What the runtime adds to llama.cpp's graphs at the end of a block: taps in the clean pass, injection in the other.
// The hook's own interface is the whole patch to llama.cpp (vendor/patches).
#pragma once

#include "graph/cross_attention_unfolded.h"
#include "model/hidden_cache.h"
#include "model/sequence.h"
#include "model/wrapper.h"

#include "llama-graph.h"

#include <map>
#include <memory>
#include <string>
#include <vector>

namespace metadeploy {

// Tensors that hold what the graph computed for every token of a prompt, by position; for looking at, not for speed.
struct capture {
    std::map<int, ggml_tensor *> blocks;    // by layer, F32 [n_embd, n_tokens]: output of the block, injection included
    std::map<int, ggml_tensor *> attention; // by layer, F32 [n_cog*n_head, n_tokens]: attention over cognitive tokens
};

class seam : public llm_block_hook {
public:
    // meta: may be nullptr, then only captures are made. It and the sequences, by id, must outlive the seam.
    seam(wrapper * meta, std::vector<sequence> & seqs, int32_t n_layer) : meta(meta), seqs(seqs), n_layer(n_layer) {}

    // What becomes of each token its sequence says. This is said of all in the decode calls that follow:
    bool largest = false;                   // graphs hold all that they can, for reserving memory
    std::unique_ptr<entry_block> entry;     // none without a wrapper
    const unfolded * unfolded_ca = nullptr; // in place of the tables

    // Copies what is computed for all tokens to its tensors; none: no more.
    void set_capture(const capture * next) {
        cap = next;
        ++n_captures;
    }

    entry_use using_entry() const { return entry ? entry->use() : entry_use::none; }

    // Which blocks the architecture showed us since the hook was attached, by layer; the text says what is wrong with
    // the tensor it handed over, or is empty.
    const std::map<int, std::string> & seen() const { return seen_layers; }

    ggml_tensor * on_block(const llm_graph_context & graph, ggml_tensor * cur, int il) override;
    uint32_t max_nodes() const override;

private:
    friend class seam_input;

    class seam_input * input_of(const llm_graph_context & graph);
    const sequence & sequence_of(const llama_ubatch & ubatch, uint32_t i) const; // of its token i

    wrapper * const meta;
    std::vector<sequence> & seqs;
    const int32_t n_layer;
    const capture * cap = nullptr;
    int64_t n_captures = 0; // tells one capture from the next, which may lie at the same address
    std::map<int, std::string> seen_layers;
};

} // namespace metadeploy
