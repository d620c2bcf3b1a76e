// The two passes over a prompt, and decoding after them.
#include "errors.h"
#include "runtime/engine.h"

#include <algorithm>
#include <chrono>

namespace metadeploy {

namespace {

// Prompts that are only looked at come in small steps: all their logits are kept, and a row may be megabytes.
constexpr int32_t CAPTURE_BATCH = 64;

} // namespace

const char * pass2_kind_name(pass2_kind kind) {
    switch (kind) {
    case pass2_kind::none:
        return "none";
    case pass2_kind::tail:
        return "tail";
    case pass2_kind::full:
        return "full";
    }
    return "none";
}

// --- evaluation ------------------------------------------------------------------------------------------------------

void engine::fail(int status) const {
    if (status == 2) {
        throw cancelled_error("cancelled");
    }
    if (status == 1) {
        throw context_overflow_error(
            "the context of " + std::to_string(n_ctx()) + " tokens has no room left (give a larger -c / n_ctx)");
    }
    throw decode_error("llama.cpp failed to evaluate a batch (status " + std::to_string(status) + ")");
}

// What the decode calls that follow do; without a hook they are the base's. intact: as entry_block::begin() has it.
void engine::begin(const pass_plan & graphs, const token_plan & tokens, entry_use entry, bool intact) {
    seq.plan = tokens;
    if (hook) {
        hook->plan = graphs;
        if (hook->entry) {
            hook->entry->begin(entry, intact);
        }
    }
}

void engine::evaluate(const llama_token * tokens, size_t n_tokens, outputs wanted, std::vector<float> * logits_out) {
    const size_t n_step = wanted == outputs::all ? (size_t)std::min<int32_t>(CAPTURE_BATCH, llama_n_batch(ctx))
                                                 : (size_t)llama_n_batch(ctx);
    struct batch_guard {
        llama_batch batch;
        ~batch_guard() { llama_batch_free(batch); }
    } guard{llama_batch_init((int32_t)std::min(n_step, n_tokens), 0, 1)};
    llama_batch & batch = guard.batch;

    for (size_t first = 0; first < n_tokens; first += n_step) {
        const size_t n = std::min(n_step, n_tokens - first);
        batch.n_tokens = (int32_t)n;
        for (size_t i = 0; i < n; ++i) {
            batch.token[i] = tokens[first + i];
            batch.pos[i] = seq.n_past + (llama_pos)i;
            batch.n_seq_id[i] = 1;
            batch.seq_id[i][0] = 0;
            batch.logits[i] = wanted == outputs::all || first + i + 1 == n_tokens;
        }
        if (cancel && cancel()) {
            fail(2);
        }
        if (const int status = llama_decode(ctx, batch); status != 0) {
            fail(status);
        }
        llama_synchronize(ctx);
        seq.n_past += (int32_t)n;
        if (hook && hook->entry && hook->entry->failed()) {
            return; // what follows would be thrown away
        }
        if (logits_out) {
            for (size_t i = 0; i < n; ++i) {
                const float * row = llama_get_logits_ith(ctx, (int32_t)i);
                if (row) {
                    logits_out->insert(logits_out->end(), row, row + n_vocab());
                }
            }
        }
    }
}

// --- the passes ------------------------------------------------------------------------------------------------------

// What is wanted of a clean pass besides logits: the activations of the last token, and what pass 2 begins with.
void engine::begin_clean(const std::vector<llama_token> & tokens, bool keep) {
    token_plan plan;
    plan.tap_at = (llama_pos)tokens.size() - 1;
    // what has been kept of the tokens before must be all of them
    keep = keep && hook && seq.places.size() == (size_t)seq.n_past &&
           hook->entry->worth_keeping(tokens.size(), has_state());
    begin({}, plan, keep ? entry_use::keep : entry_use::none);
}

// Pass 1; injected: a pass 2 follows. Returns how many tokens it need not go through.
size_t engine::clean_pass(const std::vector<llama_token> & tokens, bool injected) {
    const size_t first = restore_prefix(tokens, /*whole =*/injected);
    if (first < tokens.size()) {
        begin_clean(tokens, injected || limits.prefix_mib > 0);
        evaluate(tokens.data() + first, tokens.size() - first, outputs::last);
        begin({}, {});
        keep_prefix(tokens, tokens.size(), meta_wrapper != nullptr);
    }
    return first;
}

// The same for a memory that cannot step back over the last token: keeps its state before that.
size_t engine::clean_pass_in_two(const std::vector<llama_token> & tokens) {
    const size_t last = tokens.size() - 1;
    const size_t first = restore_prefix(tokens, /*whole =*/false);
    seq.places.clear();
    if (first < last) {
        begin({}, {});
        evaluate(tokens.data() + first, last - first, outputs::last);
    }
    if (last > 0) {
        constexpr llama_state_seq_flags flags = LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY;
        seq.before_last.resize(llama_state_seq_get_size_ext(ctx, 0, flags));
        llama_state_seq_get_data_ext(ctx, seq.before_last.data(), seq.before_last.size(), 0, flags);
        keep_prefix(tokens, last, /*tapped =*/false);
    }
    begin_clean(tokens, /*keep =*/false);
    evaluate(&tokens[last], 1, outputs::last);
    begin({}, {});
    return first;
}

// Pass 1 from an empty context, of which nothing is left for the next prompt.
void engine::clean_pass_anew(const std::vector<llama_token> & tokens, outputs wanted) {
    forget();
    begin_clean(tokens, /*keep =*/true);
    evaluate(tokens.data(), tokens.size(), wanted);
    begin({}, {});
}

token_plan engine::injected_from(const std::vector<llama_token> & tokens, const injection & inject) const {
    token_plan plan;
    plan.gain = inject.gain;
    if (meta_wrapper->config().from == inject_from::last_prompt_token) {
        plan.inject_from = (llama_pos)tokens.size() - 1;
    }
    return plan;
}

// Pass 2 over the tokens from first on. Decoding then goes on with the same injection.
pass2_kind engine::injected_pass(
    const std::vector<llama_token> & tokens,
    const injection & inject,
    size_t first,
    outputs wanted,
    std::vector<float> * logits_out) {
    pass_plan graphs;
    graphs.inject = true;
    const token_plan plan = injected_from(tokens, inject);
    const bool intact = memory_intact();
    const auto run = [&](entry_use entry) {
        step_back(tokens, first);
        begin(graphs, plan, entry, intact);
        evaluate(tokens.data() + first, tokens.size() - first, wanted, logits_out);
        const bool right = !hook->entry->failed();
        begin(graphs, plan);
        return right;
    };
    if (hook->entry->can_resume(seq, tokens.size(), intact)) {
        if (run(entry_use::resume)) {
            return pass2_kind::tail;
        }
        if (logits_out) {
            logits_out->clear();
        }
    }
    run(entry_use::none);
    return pass2_kind::full;
}

void engine::prefill(const std::vector<llama_token> & tokens, const injection & inject, timings & times) {
    check_prompt(tokens);
    times = {};
    times.n_prompt = (int32_t)tokens.size();
    auto start = std::chrono::steady_clock::now();
    const auto lap = [&] {
        const auto now = std::chrono::steady_clock::now();
        const double ms = std::chrono::duration<double, std::milli>(now - start).count();
        start = now;
        return ms;
    };
    const bool injected = injects(inject);
    // where only the last token is injected into, the keys and values of the others serve both passes
    const bool from_last = injected && meta_wrapper->config().from == inject_from::last_prompt_token;
    times.n_reused = (int32_t)(from_last && has_state() ? clean_pass_in_two(tokens) : clean_pass(tokens, injected));
    times.pass1_ms = lap();
    if (!injected) {
        return;
    }
    times.hidden_bytes = (int64_t)(seq.places.size() * hook->entry->row_bytes());
    meta_wrapper->encode();
    times.encode_ms = lap();
    times.pass2 = injected_pass(tokens, inject, from_last ? tokens.size() - 1 : 0, outputs::last);
    times.pass2_ms = lap();
}

void engine::decode(llama_token token) {
    if (context_full()) {
        fail(1);
    }
    evaluate(&token, 1, outputs::last);
}

float * engine::logits() const {
    return llama_get_logits_ith(ctx, -1);
}

} // namespace metadeploy
