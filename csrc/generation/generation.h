// One answer, token by token: a prompt on its way through the passes, then sampling and what belongs to it.
#pragma once

#include "generation/clean_context.h"
#include "generation/prompt_passes.h"
#include "generation/timings.h"
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
    std::vector<llama_token> tokens;     // the token of this step; none where the model ended
    std::vector<token_logprob> logprobs; // one for each of tokens, where asked for
};

enum class finish_reason { none, stop, length };

const char * finish_reason_name(finish_reason reason);

// Evaluates nothing itself: its driver (scheduler) does, alone or in one batch with others.
class generation {
public:
    // Takes the sequence over until the answer is complete; it and the engine must outlive that.
    // Throws what prompt_passes throws, and error where the parameters make no sense.
    // clean: one more sequence, where the injection is refreshed.
    generation(
        engine & eng,
        sequence & seq,
        std::vector<llama_token> prompt,
        generation_params params,
        sequence * clean = nullptr);

    // how many sequences an answer takes
    static size_t n_sequences(const engine & eng, const generation_params & params);

    bool has_prompt() const { return passes.done(); } // the passes are over
    // What is to be evaluated next, n_max tokens at most; then evaluated(), with the time it took, before any other
    // batch is.
    batch_part next(size_t n_max);
    void evaluated(double ms);
    // What a refresh has evaluated in a clean context before next(), n_max tokens at most; then looked(). To be called
    // again until there is nothing more.
    std::optional<batch_part> look(size_t n_max);
    void looked(double ms);

    // The next token, right after its logits have been evaluated. Returns false where it was the last; the chunk may
    // still hold text.
    bool sample(chunk & out);
    // Whether the answer ends before another token, for its length; the chunk then holds the rest of its text.
    bool at_limit(chunk & out);

    finish_reason finish() const { return reason; }
    const std::string & text() const { return stream.text(); }
    const std::vector<llama_token> & tokens() const { return generated; }
    timings times() const;

    // Known with the first token. Nothing where the base answers alone (inject.on is false, or no wrapper is there);
    // with gain 0, of the base's own logits.
    std::optional<double> doubt() const;

    // by the wrapper's refusal text, or the framework's where no wrapper is attached
    bool abstained() const { return is_abstention(text(), refusal, reason != finish_reason::stop); }

private:
    common_sampler * make_sampler();
    void begin_answer();
    llama_token draw();
    token_logprob logprob_of(llama_token token) const;
    bool end(finish_reason why, chunk & out);

    engine & eng;
    sequence & seq;
    generation_params params;
    common_sampler_ptr sampler;
    text_stream stream;
    prompt_passes passes;
    sequence * const clean;
    std::optional<clean_twin> twin;
    std::vector<llama_token> generated;
    double decode_ms = 0.0;
    std::optional<doubt_reading> reading;
    finish_reason reason = finish_reason::none;
    const std::string refusal; // what counts as declined
};

} // namespace metadeploy
