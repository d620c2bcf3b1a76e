// Where pass 2 enters the model. Up to the output of the entry block, the lowest one that is injected into, both passes
// over a prompt compute the same: pass 1 keeps that output for every token, and pass 2 begins with it.
//
// What the blocks up to there remember of a token, keys, values and states, is then what pass 1 has left. That is right
// where pass 2 would have put it in the very same places, and where no upper block looks at what is no longer there;
// both are checked, for all kinds of memory alike (graph/memory_writes.h).
#pragma once

#include "graph/memory_writes.h"
#include "model/sequence.h"

#include "ggml-backend.h"
#include "ggml-cpp.h"
#include "llama-graph.h"

#include <cstdint>
#include <functional>

namespace metadeploy {

enum class entry_use {
    none,
    keep,  // the entry block's outputs are kept
    resume // the graph begins with those that were kept
};

class entry_block {
public:
    // Room for the outputs of block il for n_rows tokens of each of n_seq sequences; n_rows() is 0 where there is not
    // enough memory.
    entry_block(int il, int64_t n_embd, int64_t n_rows, int64_t n_seq, ggml_backend_buffer_type_t buft);

    const int il;

    int64_t n_rows() const { return rows ? n_rows_each : 0; }
    size_t row_bytes() const { return (size_t)n_embd * sizeof(float); }

    // Whether pass 1 over n_tokens should keep something. has_state: the memory is one that moves on, never intact.
    bool worth_keeping(size_t n_tokens, bool has_state) const {
        return (int64_t)n_tokens <= n_rows() && !(reads_below && has_state);
    }

    // Whether pass 2 over a sequence of n_tokens can begin here. Upper blocks may look at what lower ones remember only
    // where that is intact.
    bool can_resume(const sequence & seq, size_t n_tokens) const {
        return n_tokens > 0 && seq.places.size() == n_tokens && (seq.intact || !reads_below);
    }

    // for the decode calls that follow
    void begin(entry_use use);

    // Those decode calls have resumed where it was not right, what they computed is to be thrown away.
    bool failed() const { return has_failed; }

    // Called while a graph is built: at the entry block with its output, which the result replaces, and at the end of
    // the last block. all_tokens: cur has a row for each token, else for each output. seqs: by id. ignore: memory of
    // our own.
    ggml_tensor * on_entry(
        const llm_graph_context & graph,
        ggml_tensor * cur,
        bool all_tokens,
        std::vector<sequence> & seqs,
        const std::function<bool(const ggml_tensor *)> & ignore);
    void on_last(const llm_graph_context & graph, ggml_tensor * cur);

    entry_use use() const { return now; }

    // upper bound of the tensors that one graph gets
    static constexpr uint32_t MAX_NODES = 4;

private:
    friend class entry_input;

    const int64_t n_embd;
    const int64_t n_rows_each;
    ggml_context_ptr ctx;
    ggml_backend_buffer_ptr buf;
    ggml_tensor * rows = nullptr; // F32 [n_embd, n_rows*n_seq], by position, sequence after sequence

    entry_use now = entry_use::none;
    bool has_failed = false;
    bool reads_below = false; // the architecture's upper blocks look at what lower ones remember
};

} // namespace metadeploy
