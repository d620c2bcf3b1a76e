#include "model/block_hook.h"

#include "graph/graph_input.h"

#include <algorithm>

namespace metadeploy {

namespace {

// How the rows of a micro-batch belong to sequences. Two graphs are the same only if their layouts are.
struct row_layout {
    int64_t first = 0;                     // lowest id
    int64_t n_seq = 0;                     // ids that follow each other
    bool equal_shares[2] = {false, false}; // of [0]: tokens, [1]: outputs, sequence after sequence

    static row_layout of(const llama_ubatch & ubatch) {
        row_layout layout;
        layout.first = ubatch.seq_id_unq[0];
        layout.n_seq = ubatch.n_seqs_unq;
        const int64_t n_share = ubatch.n_tokens / layout.n_seq;
        std::vector<int64_t> n_outputs((size_t)layout.n_seq);
        bool in_order = ubatch.n_tokens % layout.n_seq == 0;
        for (uint32_t i = 0; in_order && i < ubatch.n_tokens; ++i) {
            const int64_t index = i / n_share;
            in_order = ubatch.seq_id[i][0] == layout.first + index;
            n_outputs[(size_t)index] += ubatch.output[i] != 0;
        }
        layout.equal_shares[0] = in_order;
        layout.equal_shares[1] =
            in_order && std::all_of(n_outputs.begin(), n_outputs.end(), [&](int64_t n) { return n == n_outputs[0]; });
        return layout;
    }

    bool operator==(const row_layout & other) const {
        return first == other.first && n_seq == other.n_seq && equal_shares[0] == other.equal_shares[0] &&
               equal_shares[1] == other.equal_shares[1];
    }
};

} // namespace

// The tensors that change from one micro-batch to the next while the graph stays.
class block_hook_input : public llm_graph_input_i {
public:
    block_hook_input(const block_hook & owner, const llm_graph_context & graph)
        : owner(owner),
          injects(any_injected(graph.ubatch)),
          layout(owner.largest ? row_layout{0, graph.ubatch.n_seqs_unq, {true, true}} : row_layout::of(graph.ubatch)),
          hidden_mode(owner.hidden_mode()),
          cap(owner.cap),
          n_captures(owner.n_captures),
          n_taps(count_taps(graph.ubatch)),
          n_tokens(graph.n_tokens),
          n_outputs(graph.n_outputs) {
        ggml_context * ctx = graph.ctx0;
        tap_slot = new_graph_input(ctx, GGML_TYPE_I32, n_taps);
        // the last block of many architectures keeps the rows of the outputs only
        for (int kind = 0; kind < 2; ++kind) {
            const int64_t n_rows = kind == 0 ? n_tokens : n_outputs;
            gain[kind] = new_graph_input(ctx, GGML_TYPE_F32, 1, 1, n_rows);
            slots[kind] = new_graph_input(ctx, GGML_TYPE_I32, 1, n_rows);
            tap_row[kind] = new_graph_input(ctx, GGML_TYPE_I32, n_taps);
            position[kind] = new_graph_input(ctx, GGML_TYPE_I64, n_rows);
        }
    }

    // the graph was built for these; content is filled in for every micro-batch
    const block_hook & owner;
    const bool injects;
    const row_layout layout;
    const cache_mode hidden_mode;
    const capture * const cap;
    const int64_t n_captures;
    const int64_t n_taps;
    const int64_t n_tokens;
    const int64_t n_outputs;

    // A tapped token is one of the outputs (engine::evaluate), so both kinds of rows contain it.
    ggml_tensor * tap_slot; // I32 [n_taps], whose taps
    // [0]: for blocks with a row for each token, [1]: for those with a row for each output
    ggml_tensor * gain[2];     // F32 [1, 1, rows]
    ggml_tensor * slots[2];    // I32 [1, rows], whose token it is
    ggml_tensor * tap_row[2];  // I32 [n_taps]
    ggml_tensor * position[2]; // I64 [rows]

    // which of the two a tensor's rows are, or -1
    int rows_kind(const ggml_tensor * cur) const {
        return cur->ne[1] == n_tokens ? 0 : cur->ne[1] == n_outputs ? 1 : -1;
    }

    void set_input(const llama_ubatch * ubatch) override {
        std::vector<int32_t> tap_slots;
        std::vector<float> gains[2];
        std::vector<int32_t> of[2];
        std::vector<int64_t> positions[2];
        std::vector<int32_t> tap_rows[2];
        for (uint32_t i = 0; i < ubatch->n_tokens; ++i) {
            const llama_pos pos = ubatch->pos[i];
            const sequence & seq = owner.sequence_of(*ubatch, i);
            const bool tapped = pos == seq.plan.tap_pos;
            if (tapped) {
                tap_slots.push_back(seq.id);
            }
            for (int kind = 0; kind < 2; ++kind) {
                if (kind == 1 && n_outputs != n_tokens && !ubatch->output[i]) {
                    continue;
                }
                if (tapped) {
                    tap_rows[kind].push_back((int32_t)gains[kind].size());
                }
                gains[kind].push_back(seq.plan.gain_at(pos));
                of[kind].push_back(seq.id);
                positions[kind].push_back(pos);
            }
        }
        fill_graph_input(tap_slot, tap_slots);
        for (int kind = 0; kind < 2; ++kind) {
            fill_graph_input(gain[kind], gains[kind]);
            fill_graph_input(slots[kind], of[kind]);
            fill_graph_input(tap_row[kind], tap_rows[kind]);
            fill_graph_input(position[kind], positions[kind]);
        }
    }

    bool can_reuse(const llm_graph_params & params) override {
        const llama_ubatch & ubatch = params.ubatch;
        return ubatch.n_tokens == n_tokens && params.n_outputs == n_outputs && any_injected(ubatch) == injects &&
               (!injects || row_layout::of(ubatch) == layout) && owner.hidden_mode() == hidden_mode &&
               owner.n_captures == n_captures && count_taps(ubatch) == n_taps;
    }

private:
    bool any_injected(const llama_ubatch & ubatch) const {
        for (uint32_t i = 0; !owner.largest && i < ubatch.n_tokens; ++i) {
            if (owner.sequence_of(ubatch, i).plan.gain_at(ubatch.pos[i]) != 0.0f) {
                return true;
            }
        }
        return owner.largest;
    }

    int64_t count_taps(const llama_ubatch & ubatch) const {
        if (owner.largest) {
            return ubatch.n_seqs_unq;
        }
        int64_t n = 0;
        for (uint32_t i = 0; i < ubatch.n_tokens; ++i) {
            n += ubatch.pos[i] == owner.sequence_of(ubatch, i).plan.tap_pos;
        }
        return n;
    }
};

const sequence & block_hook::sequence_of(const llama_ubatch & ubatch, uint32_t i) const {
    return seqs[(size_t)ubatch.seq_id[i][0]];
}

block_hook_input * block_hook::input_of(const llm_graph_context & graph) {
    for (const llm_graph_input_ptr & input : graph.res->inputs) {
        if (auto * ours = dynamic_cast<block_hook_input *>(input.get())) {
            return ours;
        }
    }
    return static_cast<block_hook_input *>(graph.res->add_input(std::make_unique<block_hook_input>(*this, graph)));
}

uint32_t block_hook::max_nodes() const {
    // inputs, the hidden cache, and for each block a tap (3), an injection and a capture of block and attention (6)
    return 8 + hidden_cache::MAX_NODES + (uint32_t)n_layer * (3 + CA_INJECTION_MAX_NODES + 6);
}

ggml_tensor * block_hook::on_block(const llm_graph_context & graph, ggml_tensor * cur, int il) {
    if (cur->ne[0] != graph.n_embd || cur->ne[2] != 1 || cur->ne[3] != 1 || cur->type != GGML_TYPE_F32) {
        seen_layers[il] = "its output is not one F32 row of the model's width for each token";
        return cur;
    }
    block_hook_input * inp = input_of(graph);
    const int rows = inp->rows_kind(cur);
    if (rows < 0) {
        seen_layers[il] = "its output has neither a row for each token nor one for each output";
        return cur;
    }
    seen_layers.emplace(il, "");
    if (hidden && il == hidden->il) {
        const auto is_tap = [this](const ggml_tensor * memory) { return meta->is_tap(memory); };
        cur = hidden->on_entry(graph, cur, rows == 0, seqs, is_tap);
    }
    if (hidden && il == n_layer - 1) {
        hidden->on_last(graph, cur);
    }
    if (cur->ne[1] == 0) {
        return cur; // a micro-batch without outputs ends early in the last block
    }
    ggml_context * ctx = graph.ctx0;

    ggml_tensor * tap = meta ? meta->tap(il) : nullptr;
    if (tap && inp->n_taps > 0) {
        ggml_tensor * tapped = ggml_get_rows(ctx, cur, inp->tap_row[rows]); // F32 [n_embd, n_taps]
        ggml_build_forward_expand(graph.gf, ggml_set_rows(ctx, tap, tapped, inp->tap_slot));
    }
    ggml_tensor * attn = nullptr;
    const ca_tables * tables = meta ? meta->tables(il) : nullptr;
    if (tables && inp->injects) {
        const row_layout & layout = inp->layout;
        const ca_result injected =
            unfolded ? unfolded->build(ctx, il, cur, meta->cog_tensor(), inp->gain[rows])
            : layout.equal_shares[rows] && cur->ne[1] % layout.n_seq == 0
                ? build_injection(ctx, cur, view_tables(ctx, *tables, layout.first, layout.n_seq), inp->gain[rows])
                : build_injection_by_token(ctx, cur, *tables, inp->gain[rows], inp->slots[rows]);
        cur = injected.out;
        attn = injected.attn;
        graph.cb(cur, "meta_inject", il);
    }
    if (inp->cap) {
        ggml_tensor * position = ggml_reshape_1d(ctx, inp->position[rows], cur->ne[1]);
        if (const auto it = inp->cap->blocks.find(il); it != inp->cap->blocks.end()) {
            ggml_build_forward_expand(graph.gf, ggml_set_rows(ctx, it->second, cur, position));
        }
        if (const auto it = inp->cap->attention.find(il); attn && it != inp->cap->attention.end()) {
            ggml_tensor * flat = ggml_reshape_2d(ctx, attn, attn->ne[0] * attn->ne[1], attn->ne[2]);
            ggml_build_forward_expand(graph.gf, ggml_set_rows(ctx, it->second, flat, position));
        }
    }
    return cur;
}

} // namespace metadeploy
