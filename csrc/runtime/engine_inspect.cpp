// What a model computes on the way, for looking at: the clean pass, and a pass whose block outputs are kept.
#include "errors.h"
#include "runtime/engine.h"

#include <algorithm>

namespace metadeploy {

namespace {

// tensors in host memory, by layer, for a capture
class host_rows {
public:
    host_rows(const std::vector<int32_t> & layers, int64_t n_row, int64_t n_tokens) {
        ctx.reset(ggml_init({(layers.size() + 1) * ggml_tensor_overhead(), nullptr, true}));
        for (const int32_t il : layers) {
            tensors[il] = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, n_row, n_tokens);
        }
        buf.reset(ggml_backend_alloc_ctx_tensors_from_buft(ctx.get(), ggml_backend_cpu_buffer_type()));
        if (!buf) {
            throw error(
                "not enough memory to keep " + std::to_string(n_tokens) + " tokens of " +
                std::to_string(layers.size()) + " layers");
        }
        ggml_backend_buffer_clear(buf.get(), 0);
    }

    std::vector<float> rows(const std::vector<int32_t> & layers) const {
        std::vector<float> out;
        for (const int32_t il : layers) {
            const auto * data = static_cast<const float *>(tensors.at(il)->data);
            out.insert(out.end(), data, data + ggml_nelements(tensors.at(il)));
        }
        return out;
    }

    std::map<int, ggml_tensor *> tensors;

private:
    ggml_context_ptr ctx;
    ggml_backend_buffer_ptr buf;
};

void require_wrapper(const wrapper * meta, const char * what) {
    if (!meta) {
        throw error(std::string(what) + " need a sidecar, none is attached");
    }
}

} // namespace

std::vector<float> engine::activations(const std::vector<llama_token> & tokens) {
    require_wrapper(meta_wrapper.get(), "activations");
    check_prompt(tokens);
    clean_pass(tokens, /*injected =*/true);
    return meta_wrapper->activations();
}

std::vector<float> engine::cognitive_tokens(const std::vector<llama_token> & tokens) {
    require_wrapper(meta_wrapper.get(), "cognitive tokens");
    check_prompt(tokens);
    clean_pass(tokens, /*injected =*/true);
    meta_wrapper->encode();
    return meta_wrapper->cognitive_tokens();
}

// As trained where the sidecar says; else as the refusal is tokenised after the text of the prompt's last token, for
// many tokenizers give the first word of a text another token than the same word after a line break.
std::optional<llama_token> engine::refusal_token(llama_token last_prompt_token) const {
    if (!meta_wrapper) {
        return std::nullopt;
    }
    const wrapper_config & config = meta_wrapper->config();
    if (!config.refusal_token_ids.empty()) {
        return config.refusal_token_ids.front();
    }
    if (llama_vocab_type(vocab()) == LLAMA_VOCAB_TYPE_NONE) {
        return std::nullopt;
    }
    const std::string before = detokenize({last_prompt_token}, /*special =*/true);
    const std::vector<llama_token> head = tokenize(before, /*add_special =*/false, /*parse_special =*/true);
    std::vector<llama_token> whole = tokenize(before + config.refusal_text, false, true);
    size_t n_head = head.size();
    if (whole.size() < n_head || !std::equal(head.begin(), head.end(), whole.begin())) {
        whole = tokenize(config.refusal_text, false, true); // the two grow together: no boundary to look behind
        n_head = 0;
    }
    return whole.size() > n_head ? std::optional(whole[n_head]) : std::nullopt;
}

std::optional<doubt_reading> engine::doubt_after(llama_token last_prompt_token) const {
    const std::optional<llama_token> refusal = refusal_token(last_prompt_token);
    if (!refusal) {
        return std::nullopt;
    }
    return read_doubt(logits(), n_vocab(), *refusal, meta_wrapper->config().refusal_bias);
}

double engine::doubt(const std::vector<llama_token> & tokens, float gain) {
    require_wrapper(meta_wrapper.get(), "readings of doubt");
    timings times;
    prefill(tokens, {true, gain}, times);
    const std::optional<doubt_reading> reading = doubt_after(tokens.back());
    if (!reading) {
        throw error(UNKNOWN_REFUSAL);
    }
    return reading->doubt();
}

std::vector<float> engine::all_logits(const std::vector<llama_token> & tokens, const injection & inject) {
    check_prompt(tokens);
    std::vector<float> rows;
    rows.reserve(tokens.size() * (size_t)n_vocab());
    if (injects(inject)) {
        clean_pass_anew(tokens, outputs::all); // the last block may keep the rows of outputs only
        meta_wrapper->encode();
        injected_pass(tokens, inject, 0, outputs::all, &rows);
    } else {
        clear_memory();
        begin({}, {});
        evaluate(tokens.data(), tokens.size(), outputs::all, &rows);
    }
    return rows;
}

void engine::capture_pass(const std::vector<llama_token> & tokens, const injection & inject, const capture & cap) {
    // the base alone has no hook; give it one for this call
    const bool borrowed = !hook;
    if (borrowed) {
        hook = std::make_unique<seam>(nullptr, seq, n_layer());
        set_hook(hook.get());
    }
    const auto restore = [&] {
        begin({}, {});
        hook->cap = nullptr;
        if (borrowed) {
            set_hook(nullptr);
            hook.reset();
        }
        clear_memory();
    };
    try {
        for (const auto & [il, tensor] : cap.blocks) {
            const auto it = hook->seen().find(il);
            if (it == hook->seen().end() || !it->second.empty()) {
                throw model_mismatch_error(
                    "block " + std::to_string(il) + " of architecture '" + architecture() +
                    "' has no seam in llama.cpp, its output cannot be shown");
            }
        }
        pass_plan graphs;
        token_plan plan;
        graphs.inject = injects(inject);
        graphs.capture_blocks = true;
        if (graphs.inject) {
            clean_pass_anew(tokens, outputs::last);
            meta_wrapper->encode();
            plan = injected_from(tokens, inject);
        }
        clear_memory();
        begin(graphs, plan);
        hook->cap = &cap;
        evaluate(tokens.data(), tokens.size(), outputs::all);
    } catch (...) {
        restore();
        throw;
    }
    restore();
}

std::vector<float> engine::layer_outputs(
    const std::vector<llama_token> & tokens, const std::vector<int32_t> & layers, const injection & inject) {
    check_prompt(tokens);
    if (layers.empty()) {
        throw error("no layers given, expected at least one");
    }
    for (const int32_t il : layers) {
        if (il < 0 || il >= n_layer()) {
            throw error(
                "layer " + std::to_string(il) + " does not exist, the model has layers 0 to " +
                std::to_string(n_layer() - 1));
        }
    }
    const host_rows rows(layers, n_embd(), (int64_t)tokens.size());
    capture cap;
    cap.blocks = rows.tensors;
    capture_pass(tokens, inject, cap);
    return rows.rows(layers);
}

std::vector<float> engine::cognitive_attention(const std::vector<llama_token> & tokens, float gain) {
    require_wrapper(meta_wrapper.get(), "attention weights");
    check_prompt(tokens);
    const wrapper_config & config = meta_wrapper->config();
    const host_rows rows(config.cross_attn_layers, config.n_cog * config.n_ca_head, (int64_t)tokens.size());
    capture cap;
    cap.attention = rows.tensors;
    capture_pass(tokens, {true, gain}, cap);
    return rows.rows(config.cross_attn_layers);
}

} // namespace metadeploy
