#include "model/hidden_cache.h"

#include "graph/graph_input.h"

#include <algorithm>

namespace metadeploy {

// Says which stored rows belong to a micro-batch, and checks that its tokens lie in the same cells as in pass 1.
class hidden_cache_input : public llm_graph_input_i {
public:
    hidden_cache_input(
        hidden_cache & owner,
        std::vector<sequence> & seqs,
        const llm_graph_context & graph,
        const ggml_tensor * cur,
        bool all)
        : owner(owner),
          seqs(seqs),
          mode(owner.mode()),
          n_tokens(graph.n_tokens),
          n_outputs(graph.n_outputs),
          has_all_tokens(all) {
        row = new_graph_input(graph.ctx0, mode == cache_mode::store ? GGML_TYPE_I64 : GGML_TYPE_I32, cur->ne[1]);
    }

    static hidden_cache_input * of(const llm_graph_context & graph) {
        for (const llm_graph_input_ptr & input : graph.res->inputs) {
            if (auto * ours = dynamic_cast<hidden_cache_input *>(input.get())) {
                return ours;
            }
        }
        return nullptr;
    }

    ggml_tensor * row; // I64 or I32 [rows]
    memory_writes writes;
    bool reads_below = false;

    void set_input(const llama_ubatch * ubatch) override {
        std::vector<int64_t> indices;
        for (uint32_t i = 0; i < ubatch->n_tokens; ++i) {
            if (has_all_tokens || ubatch->output[i]) {
                indices.push_back(ubatch->seq_id[i][0] * owner.n_rows_each + ubatch->pos[i]);
            }
        }
        if (row->type == GGML_TYPE_I64) {
            fill_graph_input(row, indices);
        } else {
            fill_graph_input(row, std::vector<int32_t>(indices.begin(), indices.end()));
        }
        if (!writes.traceable()) {
            owner.has_failed = mode == cache_mode::reuse;
            return;
        }
        const std::vector<uint64_t> fingerprints = writes.cell_fingerprints(ubatch->n_tokens);
        const uint64_t state_fingerprint = writes.state_fingerprint();
        for (uint32_t i = 0; i < ubatch->n_tokens; ++i) {
            const auto pos = (size_t)ubatch->pos[i];
            sequence & seq = seqs[(size_t)ubatch->seq_id[i][0]];
            if (mode == cache_mode::store) {
                seq.cell_fingerprints.resize(std::max(seq.cell_fingerprints.size(), pos + 1));
                seq.cell_fingerprints[pos] = fingerprints[i];
                seq.state_fingerprint = state_fingerprint;
                continue;
            }
            // if a state moves later, it moves in all blocks
            const bool same_state = pos > 0 || state_fingerprint == seq.state_fingerprint;
            const bool same_rows = pos < seq.cell_fingerprints.size() && fingerprints[i] == seq.cell_fingerprints[pos];
            if (!same_state || !same_rows || (reads_below && !seq.cells_valid)) {
                owner.has_failed = true;
            }
        }
    }

    bool can_reuse(const llm_graph_params & params) override {
        return owner.mode() == mode && params.ubatch.n_tokens == n_tokens && params.n_outputs == n_outputs;
    }

private:
    hidden_cache & owner;
    std::vector<sequence> & seqs;
    const cache_mode mode;
    const int64_t n_tokens;
    const int64_t n_outputs;
    const bool has_all_tokens;
};

hidden_cache::hidden_cache(int il, int64_t n_embd, int64_t n_rows, int64_t n_seq, ggml_backend_buffer_type_t buft)
    : il(il), n_embd(n_embd), n_rows_each(n_rows) {
    if (n_rows < 1) {
        return;
    }
    ctx.reset(ggml_init({ggml_tensor_overhead(), nullptr, true}));
    ggml_tensor * tensor = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, n_embd, n_rows * n_seq);
    buf.reset(ggml_backend_alloc_ctx_tensors_from_buft(ctx.get(), buft));
    if (buf) {
        rows = tensor;
    }
}

void hidden_cache::set_mode(cache_mode mode) {
    current = mode;
    has_failed = false;
}

ggml_tensor * hidden_cache::on_entry(
    const llm_graph_context & graph,
    ggml_tensor * cur,
    bool all_tokens,
    std::vector<sequence> & seqs,
    const std::function<bool(const ggml_tensor *)> & ignore) {
    if (current == cache_mode::off) {
        return cur;
    }
    // registered here and not earlier: by the time it is filled, all inputs of the blocks up to here are
    auto * inp = static_cast<hidden_cache_input *>(
        graph.res->add_input(std::make_unique<hidden_cache_input>(*this, seqs, graph, cur, all_tokens)));
    ggml_build_forward_expand(graph.gf, cur);
    inp->writes = memory_writes(graph.gf, ignore);
    if (current == cache_mode::store) {
        if (cur->ne[1] > 0) {
            ggml_build_forward_expand(graph.gf, ggml_set_rows(graph.ctx0, rows, cur, inp->row));
        }
        return cur;
    }
    drop_nodes(graph.gf);
    reads_below = inp->reads_below = true;           // until on_last() knows
    cur = ggml_get_rows(graph.ctx0, rows, inp->row); // F32 [n_embd, rows]
    graph.cb(cur, "meta_entry", il);
    return cur;
}

void hidden_cache::on_last(const llm_graph_context & graph, ggml_tensor * cur) {
    if (current != cache_mode::reuse) {
        return;
    }
    if (hidden_cache_input * inp = hidden_cache_input::of(graph)) {
        ggml_build_forward_expand(graph.gf, cur);
        reads_below = inp->reads_below = inp->writes.read_by(graph.gf);
    }
}

} // namespace metadeploy
