// What a verdict on an answer reads, gathered while the answer grows: the mean activation of its tokens at some layers,
// and figures of their log-probabilities. For each sentence, and for the whole answer.
#pragma once

#include "model/engine.h"
#include "sidecar/verdict.h"
#include "text/sentences.h"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace metadeploy {

struct token_figures {
    float logprob;
    float entropy;
    float margin;
};

// logits: n_vocab finite values; token: one of them
token_figures figures_of(const float * logits, size_t n_vocab, llama_token token);

// Running figures of the tokens in one stretch of an answer.
class feature_window {
public:
    explicit feature_window(size_t n_values) : sums(n_values) {}

    void add_token(const token_figures & token);
    void add_rows(const std::vector<float> & rows); // of a token that was evaluated, n_values

    bool empty() const { return n_tokens == 0; }
    figure_array figures() const;     // NaN without a token
    std::vector<float> means() const; // n_values; NaN if no token was evaluated
    std::vector<float> last() const;  // the rows of the token that was evaluated last; NaN if none was

private:
    std::vector<double> sums;
    std::vector<float> last_rows;
    int64_t n_rows = 0;
    int64_t n_tokens = 0;
    token_figures first{};
    token_figures total{};
    float min_logprob = 0.0f;
    float max_entropy = 0.0f;
    float min_margin = 0.0f;
};

// One sentence of an answer.
struct sentence_features {
    size_t first_token; // of the answer, from 0
    size_t n_tokens;
    size_t begin; // bytes of the answer's text, before a stop string is removed
    size_t end;
    std::vector<float> means; // n_answer_layers rows of n_embd; NaN if none of its tokens was evaluated
    std::vector<float> last;  // the same of its last token that was evaluated
    figure_array figures;
    std::optional<double> p_wrong; // if the sidecar has a verdict head, and all that it reads is known
};

class answer_features {
public:
    // Construct where the answer begins. The engine must have answer taps; with_prompt: they hold the rows of this
    // prompt's last token.
    answer_features(engine & eng, const sequence & seq, bool with_prompt);

    // Call this with each token of the answer, right after it was sampled.
    void on_token(llama_token token, const std::string & piece);
    // Call this after a token of the answer was evaluated.
    void on_evaluated();
    // No more tokens come.
    void finish();

    // n_prompt_layers rows of n_embd; empty if the prompt's last token was not tapped
    const std::vector<float> & prompt_rows() const { return prompt; }
    const std::vector<sentence_features> & sentences() const { return closed; }
    const feature_window & answer() const { return whole; }
    size_t n_tokens() const { return n_sampled; }
    size_t n_bytes() const { return text.size(); }

    bool is_judged() const { return eng.verdict() != nullptr; } // by the verdict head of the sidecar
    // Probability that the answer is wrong: its first sentence, or the whole answer once it is complete, whatever the
    // verdict head was trained to judge. Nothing until then, or without a head.
    std::optional<double> p_wrong() const;

private:
    void close_sentence(const sentence_span & span, size_t end_token);
    std::optional<double> judge(const feature_window & window) const;

    engine & eng;
    const sequence & seq;
    const std::vector<float> prompt;
    const size_t n_values; // of the mean activations
    std::string text;
    size_t n_sampled = 0; // tokens of the answer
    feature_window whole;
    feature_window sentence;             // the one that is open
    size_t first_token = 0;              // of it
    size_t begin = 0;                    // it begins at this byte of the text, or after it
    std::optional<sentence_span> ending; // it ends with the newest token, which was not evaluated yet
    std::vector<sentence_features> closed;
    bool is_complete = false;
};

} // namespace metadeploy
