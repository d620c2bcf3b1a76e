// Hidden states of a prompt that pass 1 stores and pass 2 starts from. Up to the output of the entry block, the lowest
// one that is injected into, both passes compute the same. So pass 1 stores that output for every token.
//
// The memory of the blocks up to there (keys, values and states) is then what pass 1 left. That is correct if pass 2
// would have written it to the very same places, and if no upper block reads memory that has changed since. Both are
// checked, for all kinds of memory alike (graph/memory_writes.h).
#pragma once

#include "graph/memory_writes.h"
#include "model/sequence.h"

#include "ggml-backend.h"
#include "ggml-cpp.h"
#include "llama-graph.h"

#include <cstdint>
#include <functional>

namespace metadeploy {

enum class cache_mode {
    off,
    store, // the outputs of the entry block are stored
    reuse  // the graph begins with the stored outputs
};

class hidden_cache {
public:
    // Room for the outputs of block il for n_rows tokens of each of n_seq sequences; n_rows() is 0 if there is not
    // enough memory.
    hidden_cache(int il, int64_t n_embd, int64_t n_rows, int64_t n_seq, ggml_backend_buffer_type_t buft);

    const int il;

    int64_t n_rows() const { return rows ? n_rows_each : 0; }
    size_t row_bytes() const { return (size_t)n_embd * sizeof(float); }

    // Whether pass 1 over n_tokens should store its outputs. has_state: the memory has a state.
    bool worth_storing(size_t n_tokens, bool has_state) const {
        return (int64_t)n_tokens <= n_rows() && !(reads_below && has_state);
    }

    // Whether pass 2 over a sequence of n_tokens can start from the stored outputs. If upper blocks read the memory of
    // lower ones, all cells must still be valid.
    bool can_reuse(const sequence & seq, size_t n_tokens) const {
        return n_tokens > 0 && seq.cell_fingerprints.size() == n_tokens && (seq.cells_valid || !reads_below);
    }

    // for the decode calls that follow
    void set_mode(cache_mode mode);

    // Whether those decode calls reused outputs that they must not use. What they computed is then invalid.
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

    cache_mode mode() const { return current; }

    // upper bound of the tensors that one graph gets
    static constexpr uint32_t MAX_NODES = 4;

private:
    friend class hidden_cache_input;

    const int64_t n_embd;
    const int64_t n_rows_each;
    ggml_context_ptr ctx;
    ggml_backend_buffer_ptr buf;
    ggml_tensor * rows = nullptr; // F32 [n_embd, n_rows*n_seq], by position, sequence after sequence

    cache_mode current = cache_mode::off;
    bool has_failed = false;
    bool reads_below = false; // the architecture's upper blocks read the memory of lower ones
};

} // namespace metadeploy
