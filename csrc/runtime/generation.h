// One answer, token by token.
#pragma once

#include "runtime/engine.h"
#include "runtime/text_stream.h"

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

class generation {
public:
    // Runs both passes over the prompt. The engine must not be used otherwise until the answer is complete.
    generation(engine & eng, const std::vector<llama_token> & prompt, generation_params params);

    // Makes the next token. Returns false when there is no more; the last chunk may still hold text.
    bool step(chunk & out);

    finish_reason finish() const { return reason; }
    const std::string & text() const { return stream.text(); }
    const std::vector<llama_token> & tokens() const { return generated; }
    const timings & times() const { return time; }

    // Known before the first token. Nothing where the base answers alone (inject.on is false, or no wrapper is there);
    // with gain 0, of the base's own logits.
    std::optional<double> doubt() const;

    // by the wrapper's refusal text, or the framework's where no wrapper is attached
    bool abstained() const;

private:
    void check_threshold() const;
    llama_token sample();
    token_logprob logprob_of(llama_token token) const;
    bool end(finish_reason why, chunk & out);

    engine & eng;
    generation_params params;
    common_sampler_ptr sampler;
    text_stream stream;
    std::vector<llama_token> generated;
    timings time;
    std::optional<doubt_reading> reading;
    finish_reason reason = finish_reason::none;
    bool pending = false; // the last token is not evaluated yet
};

} // namespace metadeploy
