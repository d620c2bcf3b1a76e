// What a model computes on the way, for looking at: the clean pass, and a pass whose block outputs are kept.
#include "errors.h"
#include "generation/prompt_passes.h"
#include "text/refusal.h"

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

void engine::run(prompt_passes & passes) {
    while (!passes.done()) {
        const batch_part part = passes.next(llama_n_batch(ctx));
        passes.evaluated(evaluate({part}));
    }
}

std::vector<float> engine::activations(const std::vector<llama_token> & tokens) {
    require_wrapper(meta_wrapper.get(), "activations");
    prompt_passes passes(*this, seqs.front(), tokens, {}, prompt_passes::goal::activations);
    run(passes);
    return meta_wrapper->activations();
}

std::vector<float> engine::cognitive_tokens(const std::vector<llama_token> & tokens) {
    require_wrapper(meta_wrapper.get(), "cognitive tokens");
    prompt_passes passes(*this, seqs.front(), tokens, {}, prompt_passes::goal::activations);
    run(passes);
    meta_wrapper->encode();
    return meta_wrapper->cognitive_tokens();
}

// Uses the token of training if the sidecar has it. Otherwise tokenizes the refusal after the text of the prompt's last
// token.
std::optional<llama_token> engine::refusal_token(llama_token last_prompt_token) const {
    if (!meta_wrapper || !meta_wrapper->config().declines()) {
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
    const std::vector<llama_token> tokens = tokens_after(vocab(), before, config.refusal_text);
    return tokens.empty() ? std::nullopt : std::optional(tokens.front());
}

void engine::check_declines(const std::string & subject) const {
    if (const wrapper_config & config = meta_wrapper->config(); !config.declines()) {
        throw error(subject + ": a wrapper of kind '" + config.kind + "' has no refusal, expected a doubter");
    }
}

std::optional<doubt_reading> engine::doubt_after(const sequence & seq, llama_token last_prompt_token) const {
    const std::optional<llama_token> refusal = refusal_token(last_prompt_token);
    if (!refusal) {
        return std::nullopt;
    }
    return read_doubt(logits(seq), n_vocab(), *refusal, meta_wrapper->config().refusal_bias);
}

double engine::doubt(const std::vector<llama_token> & tokens, double gain) {
    require_wrapper(meta_wrapper.get(), "readings of doubt");
    check_declines("doubt");
    prompt_passes passes(*this, seqs.front(), tokens, {true, gain});
    run(passes);
    const std::optional<doubt_reading> reading = doubt_after(seqs.front(), tokens.back());
    if (!reading) {
        throw error(UNKNOWN_REFUSAL);
    }
    return reading->doubt();
}

std::vector<float> engine::all_logits(const std::vector<llama_token> & tokens, const injection & inject) {
    prompt_passes passes(*this, seqs.front(), tokens, inject, prompt_passes::goal::all_logits);
    run(passes);
    return passes.logits();
}

void engine::capture_pass(const std::vector<llama_token> & tokens, const injection & inject, const capture & cap) {
    const bool borrowed = !hook;
    sequence & seq = seqs.front();
    forget(seq);
    const auto restore = [&] {
        if (borrowed) {
            put_back(nullptr);
            hook.reset();
        } else {
            hook->set_capture(nullptr);
        }
        forget(seq);
    };
    try {
        if (borrowed) { // the base alone has no hook; give it one for this call
            hook = std::make_unique<seam>(nullptr, seqs, n_layer());
            set_hook(hook.get());
        }
        for (const auto & [il, tensor] : cap.blocks) {
            const auto it = hook->seen().find(il);
            if (it == hook->seen().end() || !it->second.empty()) {
                throw model_mismatch_error(
                    "block " + std::to_string(il) + " of architecture '" + architecture() +
                    "' has no seam in llama.cpp, its output cannot be shown");
            }
        }
        token_plan plan;
        if (injects(inject)) {
            prompt_passes passes(*this, seq, tokens, {}, prompt_passes::goal::activations);
            run(passes);
            encode(seq, inject.gain);
            plan = injected_from(tokens, inject);
        }
        clear_memory(seq);
        seq.plan = plan;
        hook->set_capture(&cap);
        const size_t n_step = std::min<size_t>(CAPTURE_BATCH, llama_n_batch(ctx));
        for (size_t first = 0; first < tokens.size(); first += n_step) {
            const size_t n = std::min(n_step, tokens.size() - first);
            evaluate({{&seq, &tokens[first], n, outputs::all, entry_use::none}});
            check_logits(seq, n);
        }
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

std::vector<float> engine::cognitive_attention(const std::vector<llama_token> & tokens, double gain) {
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
