// One batch through the model, with tokens of one sequence or of several.
#include "errors.h"
#include "model/engine.h"

#include <algorithm>
#include <chrono>

namespace metadeploy {

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

double engine::evaluate(std::vector<batch_part> parts) {
    const auto start = std::chrono::steady_clock::now();
    // llama.cpp puts sequences into one micro-batch where their ids follow each other
    std::sort(
        parts.begin(), parts.end(), [](const batch_part & a, const batch_part & b) { return a.seq->id < b.seq->id; });
    size_t n_tokens = 0;
    for (const batch_part & part : parts) {
        n_tokens += part.n_tokens;
    }
    struct batch_guard {
        llama_batch batch;
        ~batch_guard() { llama_batch_free(batch); }
    } guard{llama_batch_init((int32_t)n_tokens, 0, 1)};
    llama_batch & batch = guard.batch;
    for (const batch_part & part : parts) {
        for (size_t i = 0; i < part.n_tokens; ++i) {
            const auto row = (size_t)batch.n_tokens++;
            batch.token[row] = part.tokens[i];
            batch.pos[row] = part.seq->n_past + (llama_pos)i;
            batch.n_seq_id[row] = 1;
            batch.seq_id[row][0] = part.seq->id;
            // A tapped token must be an output: the last block of many architectures has rows for outputs only.
            batch.logits[row] = part.wanted == outputs::all ||
                                (part.wanted == outputs::last && i + 1 == part.n_tokens) ||
                                batch.pos[row] == part.seq->plan.tap_at;
        }
        part.seq->logits_row = batch.n_tokens - 1;
        part.seq->unproven = part.seq->unproven || may_overflow(part);
    }
    if (cancel && cancel()) {
        fail(2);
    }
    if (!reserved) {
        set_hook(hook.get());
    }
    if (hook && hook->entry) {
        hook->entry->begin(parts.front().entry);
    }
    ++n_evaluated;
    if (const int status = llama_decode(ctx, batch); status != 0) {
        fail(status);
    }
    llama_synchronize(ctx);
    for (const batch_part & part : parts) {
        part.seq->n_past += (int32_t)part.n_tokens;
    }
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

float * engine::logits(const sequence & seq) const {
    return llama_get_logits_ith(ctx, seq.logits_row);
}

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

} // namespace metadeploy
