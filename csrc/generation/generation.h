// One answer, token by token: a prompt goes through the passes, then tokens are sampled.
#pragma once

#include "generation/answer_features.h"
#include "generation/clean_context.h"
#include "generation/prompt_passes.h"
#include "generation/timings.h"
#include "generation/verdict_policy.h"
#include "model/doubt_reading.h"
#include "model/engine.h"
#include "model/injection.h"
#include "text/abstention.h"
#include "text/text_stream.h"

#include "sampling.h"

#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace metadeploy {

struct generation_params {
    int32_t max_tokens = -1; // negative: until the model ends or the context is full
    common_params_sampling sampling;
    std::vector<std::string> stop;
    injection inject;
    double doubt_threshold = 0.5; // 0 to 1: declines where doubt() reaches it; 0.5 as calibrated, 0 always, 1 never
    verdict_policy policy;        // if it is set, the base answers alone: a verdict head judges the base's own answers
    int32_t n_logprobs = -1;      // negative: none; n: of the chosen token and of the n most likely ones
};

struct token_logprob {
    llama_token token;
    std::string piece;
    float logprob;
    std::vector<std::pair<llama_token, float>> top; // most likely first
};

// what one step adds
struct chunk {
    std::string text;                    // may be empty while a character or a stop string is incomplete
    std::vector<llama_token> tokens;     // the token of this step; none if the model ended
    std::vector<token_logprob> logprobs; // one for each of tokens, if asked for
};

enum class finish_reason { none, stop, length };

const char * finish_reason_name(finish_reason reason);

// Evaluates nothing itself: batch_scheduler does, alone or in one batch with others.
class generation {
public:
    // Takes the sequence over until the answer is complete. clean: a second sequence, if the cognitive tokens are
    // refreshed. Throws what prompt_passes throws, and error if the parameters make no sense.
    generation(
        engine & eng,
        sequence & seq,
        std::vector<llama_token> prompt,
        generation_params params,
        sequence * clean = nullptr);

    // how many sequences an answer takes
    static size_t n_sequences(const engine & eng, const generation_params & params);

    bool has_prompt() const { return passes.done(); } // the passes are over
    // Returns the next batch, of n_max tokens at most. Call on_evaluated() with the time that it took, before any other
    // batch is evaluated.
    batch_part next_batch(size_t n_max);
    void on_evaluated(double ms);
    // Next batch for the clean context, if a refresh needs one; then call on_clean_evaluated(). Call this before
    // next_batch(), until it returns nothing.
    std::optional<batch_part> next_clean_batch(size_t n_max);
    void on_clean_evaluated(double ms);

    // Samples the next token, right after its logits were evaluated. Returns false if it was the last one; the chunk
    // may still hold text.
    bool sample(chunk & out);
    // Returns whether the answer ends here because of its length; the chunk then holds the rest of its text.
    bool at_limit(chunk & out);

    finish_reason finish() const { return reason; }
    const std::string & text() const { return withheld ? refusal : stream.text(); }
    // The answer that was withheld, as far as it was generated; nullptr if none was.
    const std::string * withheld_text() const { return withheld ? &stream.text() : nullptr; }
    const std::vector<llama_token> & tokens() const { return generated; }
    timings times() const;

    // Known with the first token. Nothing if the base answers alone (inject.on is false, or there is no wrapper); at
    // gain 0, it is read from the base's own logits.
    std::optional<double> doubt() const;

    // What a verdict reads; nullptr unless the engine taps answers. Complete with the answer.
    const answer_features * features() const { return gathered ? &*gathered : nullptr; }

    // The verdict: see answer_features::p_wrong.
    bool too_doubtful() const; // whether it is above the limit of the policy, or complete and cannot be judged
    std::optional<double> p_wrong() const { return gathered ? gathered->p_wrong() : std::nullopt; }

    // by the wrapper's refusal text, or by the framework's if no wrapper is attached
    bool abstained() const { return is_abstention(text(), refusal, reason != finish_reason::stop); }

private:
    common_sampler * make_sampler();
    void begin_answer();
    llama_token sample_token();
    token_logprob logprob_of(llama_token token) const;
    bool next_token(chunk & out);
    bool end(finish_reason why, chunk & out);
    bool hold_back(chunk & out, bool more);

    engine & eng;
    sequence & seq;
    generation_params params;
    const std::optional<double> limit; // of p_wrong
    common_sampler_ptr sampler;
    text_stream stream;
    prompt_passes passes;
    sequence * const clean;
    std::optional<clean_context> clean_ctx;
    std::vector<llama_token> generated;
    double decode_ms = 0.0;
    std::optional<doubt_reading> reading;
    std::optional<answer_features> gathered;
    finish_reason reason = finish_reason::none;
    chunk held; // until the verdict is known
    bool is_released = false;
    bool withheld = false;
    const std::string refusal; // what counts as declined
};

} // namespace metadeploy
