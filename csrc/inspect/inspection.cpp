#include "inspect/inspection.h"

#include "errors.h"
#include "generation/prompt_passes.h"
#include "model/doubt_reading.h"
#include "text/refusal.h"

#include <algorithm>
#include <map>
#include <optional>
#include <string>

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

void run_pass1(engine & eng, const std::vector<llama_token> & tokens) {
    prompt_passes passes(eng, eng.sequences().front(), tokens, {}, prompt_passes::goal::activations);
    passes.run();
}

// Evaluates a prompt with this injection, block by block into the tensors of cap.
void capture_prompt(
    engine & eng, const std::vector<llama_token> & tokens, const injection & inject, const capture & cap) {
    sequence & seq = eng.sequences().front();
    const auto end = [&] {
        eng.stop_capture();
        eng.reset(seq);
    };
    eng.reset(seq);
    try {
        token_plan plan;
        if (injects(inject, eng.meta())) {
            run_pass1(eng, tokens);
            eng.encode(seq, inject.gain);
            plan = plan_injection(inject, *eng.meta(), tokens.size());
        }
        eng.memory().clear(seq);
        seq.plan = plan;
        eng.start_capture(cap);
        const size_t n_step = std::min<size_t>(CAPTURE_BATCH, llama_n_batch(eng.context()));
        for (size_t first = 0; first < tokens.size(); first += n_step) {
            const size_t n = std::min(n_step, tokens.size() - first);
            eng.evaluate({{&seq, &tokens[first], n, outputs::all, cache_mode::off}});
            eng.check_logits(seq, n);
        }
    } catch (...) {
        end();
        throw;
    }
    end();
}

} // namespace

std::vector<float> compute_activations(engine & eng, const std::vector<llama_token> & tokens) {
    require_wrapper(eng.meta(), "activations");
    run_pass1(eng, tokens);
    return eng.tapped(eng.sequences().front());
}

std::vector<float> compute_cognitive_tokens(engine & eng, const std::vector<llama_token> & tokens) {
    require_wrapper(eng.meta(), "cognitive tokens");
    run_pass1(eng, tokens);
    eng.encode(eng.sequences().front(), /*gain =*/0.0);
    return eng.meta()->cognitive_tokens();
}

std::vector<float> compute_logits(engine & eng, const std::vector<llama_token> & tokens, const injection & inject) {
    prompt_passes passes(eng, eng.sequences().front(), tokens, inject, prompt_passes::goal::all_logits);
    passes.run();
    return passes.logits();
}

std::vector<float> compute_layer_outputs(
    engine & eng,
    const std::vector<llama_token> & tokens,
    const std::vector<int32_t> & layers,
    const injection & inject) {
    eng.check_prompt(tokens);
    if (layers.empty()) {
        throw error("no layers given, expected at least one");
    }
    for (const int32_t il : layers) {
        if (il < 0 || il >= eng.n_layer()) {
            throw error(
                "layer " + std::to_string(il) + " does not exist, the model has layers 0 to " +
                std::to_string(eng.n_layer() - 1));
        }
    }
    const host_rows rows(layers, eng.n_embd(), (int64_t)tokens.size());
    capture cap;
    cap.blocks = rows.tensors;
    capture_prompt(eng, tokens, inject, cap);
    return rows.rows(layers);
}

std::vector<float> compute_attention(engine & eng, const std::vector<llama_token> & tokens, double gain) {
    require_wrapper(eng.meta(), "attention weights");
    eng.check_prompt(tokens);
    const wrapper_config & config = eng.meta()->config();
    const host_rows rows(config.cross_attn_layers, config.n_cog * config.n_ca_head, (int64_t)tokens.size());
    capture cap;
    cap.attention = rows.tensors;
    capture_prompt(eng, tokens, {true, gain}, cap);
    return rows.rows(config.cross_attn_layers);
}

double compute_doubt(engine & eng, const std::vector<llama_token> & tokens, double gain) {
    require_wrapper(eng.meta(), "readings of doubt");
    check_declines(eng.meta()->config(), "doubt");
    sequence & seq = eng.sequences().front();
    prompt_passes passes(eng, seq, tokens, {true, gain});
    passes.run();
    const std::optional<doubt_reading> reading = doubt_after(eng, seq, tokens.back());
    if (!reading) {
        throw error(UNKNOWN_REFUSAL);
    }
    return reading->doubt();
}

} // namespace metadeploy
