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

// Rows of a block's output that are copied, each to the column of its sequence.
struct row_selection {
    ggml_tensor * slot;   // I32 [n], the column
    ggml_tensor * row[2]; // I32 [n], for both kinds of rows
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
          n_taps(count(graph.ubatch, is_tapped)),
          n_answer(count(graph.ubatch, is_answer)),
          n_tokens(graph.n_tokens),
          n_outputs(graph.n_outputs) {
        ggml_context * ctx = graph.ctx0;
        tap.slot = new_graph_input(ctx, GGML_TYPE_I32, n_taps);
        answer.slot = new_graph_input(ctx, GGML_TYPE_I32, n_answer);
        // the last block of many architectures keeps the rows of the outputs only
        for (int kind = 0; kind < 2; ++kind) {
            const int64_t n_rows = kind == 0 ? n_tokens : n_outputs;
            gain[kind] = new_graph_input(ctx, GGML_TYPE_F32, 1, 1, n_rows);
            slots[kind] = new_graph_input(ctx, GGML_TYPE_I32, 1, n_rows);
            tap.row[kind] = new_graph_input(ctx, GGML_TYPE_I32, n_taps);
            answer.row[kind] = new_graph_input(ctx, GGML_TYPE_I32, n_answer);
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
    const int64_t n_answer;
    const int64_t n_tokens;
    const int64_t n_outputs;

    // Tapped tokens and those of answers are outputs (engine::evaluate), so both kinds of rows contain them.
    row_selection tap;
    row_selection answer;
    // [0]: for blocks with a row for each token, [1]: for those with a row for each output
    ggml_tensor * gain[2];     // F32 [1, 1, rows]
    ggml_tensor * slots[2];    // I32 [1, rows], whose token it is
    ggml_tensor * position[2]; // I64 [rows]

    // which of the two a tensor's rows are, or -1
    int rows_kind(const ggml_tensor * cur) const {
        return cur->ne[1] == n_tokens ? 0 : cur->ne[1] == n_outputs ? 1 : -1;
    }

    void set_input(const llama_ubatch * ubatch) override {
        selected_rows taps;
        selected_rows answers;
        std::vector<float> gains[2];
        std::vector<int32_t> of[2];
        std::vector<int64_t> positions[2];
        for (uint32_t i = 0; i < ubatch->n_tokens; ++i) {
            const llama_pos pos = ubatch->pos[i];
            const sequence & seq = owner.sequence_of(*ubatch, i);
            const bool to_tap = is_tapped(seq, pos);
            const bool to_answer = is_answer(seq, pos);
            if (to_tap) {
                taps.slots.push_back(seq.id);
            }
            if (to_answer) {
                answers.slots.push_back(seq.id);
            }
            for (int kind = 0; kind < 2; ++kind) {
                if (kind == 1 && n_outputs != n_tokens && !ubatch->output[i]) {
                    continue;
                }
                const auto row = (int32_t)gains[kind].size();
                if (to_tap) {
                    taps.rows[kind].push_back(row);
                }
                if (to_answer) {
                    answers.rows[kind].push_back(row);
                }
                gains[kind].push_back(seq.plan.gain_at(pos));
                of[kind].push_back(seq.id);
                positions[kind].push_back(pos);
            }
        }
        taps.fill(tap);
        answers.fill(answer);
        for (int kind = 0; kind < 2; ++kind) {
            fill_graph_input(gain[kind], gains[kind]);
            fill_graph_input(slots[kind], of[kind]);
            fill_graph_input(position[kind], positions[kind]);
        }
    }

    bool can_reuse(const llm_graph_params & params) override {
        const llama_ubatch & ubatch = params.ubatch;
        return ubatch.n_tokens == n_tokens && params.n_outputs == n_outputs && any_injected(ubatch) == injects &&
               (!injects || row_layout::of(ubatch) == layout) && owner.hidden_mode() == hidden_mode &&
               owner.n_captures == n_captures && count(ubatch, is_tapped) == n_taps &&
               count(ubatch, is_answer) == n_answer;
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

    static bool is_tapped(const sequence & seq, llama_pos pos) { return pos == seq.plan.tap_pos; }
    static bool is_answer(const sequence & seq, llama_pos pos) { return pos >= seq.plan.answer_from; }

    template <typename Predicate>
    int64_t count(const llama_ubatch & ubatch, const Predicate & predicate) const {
        if (owner.largest) {
            return ubatch.n_seqs_unq;
        }
        int64_t n = 0;
        for (uint32_t i = 0; i < ubatch.n_tokens; ++i) {
            n += predicate(owner.sequence_of(ubatch, i), ubatch.pos[i]);
        }
        return n;
    }

    struct selected_rows { // the content of a row_selection
        std::vector<int32_t> slots;
        std::vector<int32_t> rows[2];

        void fill(const row_selection & tensors) const {
            fill_graph_input(tensors.slot, slots);
            fill_graph_input(tensors.row[0], rows[0]);
            fill_graph_input(tensors.row[1], rows[1]);
        }
    };
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
    // inputs, the hidden cache, and for each block three taps (of 3), an injection and a capture of block and attention
    // (6)
    return 11 + hidden_cache::MAX_NODES + (uint32_t)n_layer * (9 + CA_INJECTION_MAX_NODES + 6);
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
        const auto is_tap = [this](const ggml_tensor * memory) {
            return meta->is_tap(memory) || (answers && answers->owns(memory));
        };
        cur = hidden->on_entry(graph, cur, rows == 0, seqs, is_tap);
    }
    if (hidden && il == n_layer - 1) {
        hidden->on_last(graph, cur);
    }
    if (cur->ne[1] == 0) {
        return cur; // a micro-batch without outputs ends early in the last block
    }
    ggml_context * ctx = graph.ctx0;

    const auto copy_rows = [&](ggml_tensor * target, const row_selection & selection, int64_t n) {
        if (target && n > 0) {
            ggml_tensor * chosen = ggml_get_rows(ctx, cur, selection.row[rows]); // F32 [n_embd, n]
            ggml_build_forward_expand(graph.gf, ggml_set_rows(ctx, target, chosen, selection.slot));
        }
    };
    copy_rows(meta ? meta->tap(il) : nullptr, inp->tap, inp->n_taps);
    copy_rows(answers ? answers->at_prompt(il) : nullptr, inp->tap, inp->n_taps);
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
    copy_rows(answers ? answers->at_answer(il) : nullptr, inp->answer, inp->n_answer);
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
