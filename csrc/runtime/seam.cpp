#include "runtime/seam.h"

#include "ggml-backend.h"

namespace metadeploy {

// The tensors that change from one micro-batch to the next while the graph stays.
class seam_input : public llm_graph_input_i {
public:
    seam_input(const seam & owner, const llm_graph_context & graph)
        : owner(owner),
          injects(owner.plan.inject),
          entry(owner.using_entry()),
          cap(owner.plan.capture_blocks ? owner.cap : nullptr),
          n_taps(count_taps(graph.ubatch)),
          n_tokens(graph.n_tokens),
          n_outputs(graph.n_outputs) {
        ggml_context * ctx = graph.ctx0;
        const auto input = [&](ggml_type type, int64_t n0, int64_t n1, int64_t n2) {
            ggml_tensor * tensor = ggml_new_tensor_3d(ctx, type, n0, n1, n2);
            ggml_set_input(tensor);
            return tensor;
        };
        // the last block of many architectures keeps the rows of the outputs only
        gain[0] = input(GGML_TYPE_F32, 1, 1, n_tokens);
        gain[1] = input(GGML_TYPE_F32, 1, 1, n_outputs);
        tap_row[0] = input(GGML_TYPE_I32, 1, 1, 1);
        tap_row[1] = input(GGML_TYPE_I32, 1, 1, 1);
        position[0] = input(GGML_TYPE_I64, n_tokens, 1, 1);
        position[1] = input(GGML_TYPE_I64, n_outputs, 1, 1);
    }

    // the graph was built for these; content is filled in for every micro-batch
    const seam & owner;
    const bool injects;
    const entry_use entry;
    const capture * const cap;
    const int64_t n_taps;
    const int64_t n_tokens;
    const int64_t n_outputs;

    // [0]: for blocks with a row for each token, [1]: for those with a row for each output
    ggml_tensor * gain[2];     // F32 [1, 1, rows]
    ggml_tensor * tap_row[2];  // I32 [1]
    ggml_tensor * position[2]; // I64 [rows]

    // which of the two a tensor's rows are, or -1
    int rows_kind(const ggml_tensor * cur) const {
        return cur->ne[1] == n_tokens ? 0 : cur->ne[1] == n_outputs ? 1 : -1;
    }

    void set_input(const llama_ubatch * ubatch) override {
        const token_plan & plan = owner.seq.plan;
        std::vector<float> gains[2];
        std::vector<int64_t> positions[2];
        int32_t tap_rows[2] = {0, 0};
        for (uint32_t i = 0; i < ubatch->n_tokens; ++i) {
            const llama_pos pos = ubatch->pos[i];
            for (int kind = 0; kind < 2; ++kind) {
                if (kind == 1 && n_outputs != n_tokens && !ubatch->output[i]) {
                    continue;
                }
                if (pos == plan.tap_at) {
                    tap_rows[kind] = (int32_t)gains[kind].size();
                }
                gains[kind].push_back(injects && pos >= plan.inject_from ? plan.gain : 0.0f);
                positions[kind].push_back(pos);
            }
        }
        for (int kind = 0; kind < 2; ++kind) {
            upload(gain[kind], gains[kind]);
            upload(position[kind], positions[kind]);
            if (tap_row[kind]->buffer) {
                ggml_backend_tensor_set(tap_row[kind], &tap_rows[kind], 0, sizeof(int32_t));
            }
        }
    }

    bool can_reuse(const llm_graph_params & params) override {
        return params.ubatch.n_tokens == n_tokens && params.n_outputs == n_outputs && owner.plan.inject == injects &&
               owner.using_entry() == entry && (owner.plan.capture_blocks ? owner.cap : nullptr) == cap &&
               count_taps(params.ubatch) == n_taps;
    }

private:
    int64_t count_taps(const llama_ubatch & ubatch) const {
        int64_t n = 0;
        for (uint32_t i = 0; i < ubatch.n_tokens && ubatch.pos; ++i) {
            n += ubatch.pos[i] == owner.seq.plan.tap_at;
        }
        return n;
    }

    // an input that no node of the graph uses has no memory
    template <typename T>
    static void upload(ggml_tensor * tensor, const std::vector<T> & data) {
        if (tensor->buffer && ggml_nelements(tensor) == (int64_t)data.size()) {
            ggml_backend_tensor_set(tensor, data.data(), 0, data.size() * sizeof(T));
        }
    }
};

seam_input * seam::input_of(const llm_graph_context & graph) {
    for (const llm_graph_input_ptr & input : graph.res->inputs) {
        if (auto * ours = dynamic_cast<seam_input *>(input.get())) {
            return ours;
        }
    }
    return static_cast<seam_input *>(graph.res->add_input(std::make_unique<seam_input>(*this, graph)));
}

uint32_t seam::max_nodes() const {
    // inputs, the entry, and for each block a tap (3), an injection and a capture of block and attention (6)
    return 8 + entry_block::MAX_NODES + (uint32_t)n_layer * (3 + CA_INJECTION_MAX_NODES + 6);
}

ggml_tensor * seam::on_block(const llm_graph_context & graph, ggml_tensor * cur, int il) {
    if (cur->ne[0] != graph.n_embd || cur->ne[2] != 1 || cur->ne[3] != 1 || cur->type != GGML_TYPE_F32) {
        seen_layers[il] = "its output is not one F32 row of the model's width for each token";
        return cur;
    }
    seam_input * inp = input_of(graph);
    const int rows = inp->rows_kind(cur);
    if (rows < 0) {
        seen_layers[il] = "its output has neither a row for each token nor one for each output";
        return cur;
    }
    seen_layers.emplace(il, "");
    if (entry && il == entry->il) {
        const auto is_tap = [this](const ggml_tensor * memory) { return meta->is_tap(memory); };
        cur = entry->on_entry(graph, cur, rows == 0, seq, is_tap);
    }
    if (entry && il == n_layer - 1) {
        entry->on_last(graph, cur);
    }
    if (cur->ne[1] == 0) {
        return cur; // a micro-batch without outputs ends early in the last block
    }
    ggml_context * ctx = graph.ctx0;

    ggml_tensor * tap = meta ? meta->tap(il) : nullptr;
    if (tap && inp->n_taps > 0) {
        ggml_tensor * row = ggml_get_rows(ctx, cur, ggml_reshape_1d(ctx, inp->tap_row[rows], 1)); // F32 [n_embd, 1]
        ggml_build_forward_expand(graph.gf, ggml_cpy(ctx, row, tap));
    }
    const ca_tables * tables = meta ? meta->tables(il) : nullptr;
    ggml_tensor * attn = nullptr;
    if (tables && inp->injects) {
        const ca_result injected = build_injection(ctx, cur, *tables, inp->gain[rows]);
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
