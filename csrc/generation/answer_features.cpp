#include "generation/answer_features.h"

#include "generation/verdict.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

namespace metadeploy {

namespace {

constexpr float NOT_KNOWN = std::numeric_limits<float>::quiet_NaN();

// Forbidden tokens have a logit of minus infinity; e^-87 is next to nothing, and its product with -87 still a number.
constexpr float LOWEST = -87.0f;

// Loops over lanes become vector instructions without any option that would let the compiler reorder sums.
constexpr size_t LANES = 8;
// Number of terms that are summed in F32; the sums are added in F64.
constexpr size_t BLOCK = 1024;

// exp(x) for x <= 0, within 3e-7 of it: 2^n as the bits of a float, times a polynomial of the rest in [-1/2, 1/2].
inline float fast_exp(float x) {
    constexpr float LOG2_E = 1.44269504f;
    constexpr float ROUNDS = 12582912.0f; // 1.5 * 2^23: a float that large has no digits after the point
    const float scaled = x * LOG2_E < -126.0f ? -126.0f : x * LOG2_E;
    const float shifted = scaled + ROUNDS;
    const float t = (scaled - (shifted - ROUNDS)) * 0.693147181f;
    const float power =
        1.0f +
        t * (1.0f + t * (0.5f + t * (1.0f / 6.0f + t * (1.0f / 24.0f + t * (1.0f / 120.0f + t * (1.0f / 720.0f))))));
    int32_t bits;
    std::memcpy(&bits, &shifted, sizeof(bits));
    bits = (int32_t)(((uint32_t)bits + 127u) << 23);
    float two_to;
    std::memcpy(&two_to, &bits, sizeof(two_to));
    return power * two_to;
}

struct top_two {
    float max = -std::numeric_limits<float>::infinity();
    float second = max;

    void add(float value) {
        const float lower = value < max ? value : max;
        max = max < value ? value : max;
        second = second < lower ? lower : second;
    }
};

top_two find_top_two(const float * values, size_t n) {
    float max[LANES];
    float second[LANES];
    std::fill_n(max, LANES, top_two().max);
    std::fill_n(second, LANES, top_two().max);
    const size_t n_even = n - n % LANES;
    for (size_t first = 0; first < n_even; first += LANES) {
        for (size_t lane = 0; lane < LANES; ++lane) {
            const float value = values[first + lane];
            const float lower = value < max[lane] ? value : max[lane];
            max[lane] = max[lane] < value ? value : max[lane];
            second[lane] = second[lane] < lower ? lower : second[lane];
        }
    }
    top_two result;
    for (size_t lane = 0; lane < LANES; ++lane) {
        result.add(max[lane]);
        result.add(second[lane]);
    }
    std::for_each(values + n_even, values + n, [&](float value) { result.add(value); });
    return result;
}

} // namespace

token_figures figures_of(const float * logits, size_t n_vocab, llama_token token) {
    const auto [max, second] = find_top_two(logits, n_vocab);
    double sum = 0.0;
    double weighted = 0.0; // each term times its logit, less max
    for (size_t first = 0; first < n_vocab; first += BLOCK) {
        const size_t n = std::min(BLOCK, n_vocab - first);
        float terms[LANES] = {};
        float products[LANES] = {};
        for (size_t i = 0; i + LANES <= n; i += LANES) {
            for (size_t lane = 0; lane < LANES; ++lane) {
                const float below = std::max(logits[first + i + lane] - max, LOWEST);
                const float term = fast_exp(below);
                terms[lane] += term;
                products[lane] += term * below;
            }
        }
        for (size_t i = n - n % LANES; i < n; ++i) {
            const float below = std::max(logits[first + i] - max, LOWEST);
            terms[0] += fast_exp(below);
            products[0] += fast_exp(below) * below;
        }
        sum += std::accumulate(terms, terms + LANES, 0.0);
        weighted += std::accumulate(products, products + LANES, 0.0);
    }
    const double log_sum = std::log(sum);
    return {(float)(logits[token] - max - log_sum), (float)(log_sum - weighted / sum), max - second};
}

void feature_window::add_token(const token_figures & token) {
    if (n_tokens == 0) {
        first = token;
        min_logprob = token.logprob;
        max_entropy = token.entropy;
        min_margin = token.margin;
    }
    total.logprob += token.logprob;
    total.entropy += token.entropy;
    total.margin += token.margin;
    min_logprob = std::min(min_logprob, token.logprob);
    max_entropy = std::max(max_entropy, token.entropy);
    min_margin = std::min(min_margin, token.margin);
    ++n_tokens;
}

void feature_window::add_rows(const std::vector<float> & rows) {
    for (size_t i = 0; i < sums.size(); ++i) {
        sums[i] += rows[i];
    }
    last_rows = rows;
    ++n_rows;
}

figure_array feature_window::figures() const {
    figure_array result;
    if (n_tokens == 0) {
        result.fill(NOT_KNOWN);
        return result;
    }
    const auto n = (float)n_tokens;
    return {std::log(n), total.logprob, total.logprob / n, min_logprob, first.logprob, total.entropy / n,
            max_entropy, first.entropy, total.margin / n,  min_margin,  first.margin};
}

std::vector<float> feature_window::means() const {
    std::vector<float> result(sums.size(), NOT_KNOWN);
    for (size_t i = 0; n_rows > 0 && i < sums.size(); ++i) {
        result[i] = (float)(sums[i] / (double)n_rows);
    }
    return result;
}

std::vector<float> feature_window::last() const {
    return n_rows > 0 ? last_rows : std::vector<float>(sums.size(), NOT_KNOWN);
}

answer_features::answer_features(engine & eng, const sequence & seq, bool with_prompt)
    : eng(eng),
      seq(seq),
      prompt(with_prompt ? eng.answers()->read_prompt(seq.id) : std::vector<float>()),
      n_values(eng.answers()->layers().answer.size() * (size_t)eng.n_embd()),
      whole(n_values),
      sentence(n_values) {}

// The sentence that is open ends before token end_token.
void answer_features::close_sentence(const sentence_span & span, size_t end_token) {
    closed.push_back(
        {first_token, end_token - first_token, span.begin, span.end, sentence.means(), sentence.last(),
         sentence.figures(), judge(sentence)});
    sentence = feature_window(n_values);
    first_token = end_token;
    ending.reset();
}

void answer_features::on_token(llama_token token, const std::string & piece) {
    const size_t n_bytes_before = text.size();
    text += piece;
    const token_figures figures = figures_of(eng.logits(seq), (size_t)eng.n_vocab(), token);
    whole.add_token(figures);
    // A sentence ends with the token before this one, which has been evaluated, or with this one. Sentences that begin
    // and end inside this token belong to the one that it ends.
    while (const std::optional<sentence_span> span = next_sentence(text, begin, /*is_final =*/false)) {
        begin = span->end;
        if (span->end > n_bytes_before) {
            ending = {ending ? ending->begin : span->begin, span->end};
        } else if (!sentence.empty()) {
            close_sentence(*span, n_sampled);
        }
    }
    sentence.add_token(figures);
    ++n_sampled;
}

void answer_features::on_evaluated() {
    const std::vector<float> rows = eng.answers()->read_answer(seq.id);
    whole.add_rows(rows);
    sentence.add_rows(rows);
    if (ending) {
        close_sentence(*ending, n_sampled);
    }
}

void answer_features::finish() {
    if (!ending) {
        ending = next_sentence(text, begin, /*is_final =*/true);
    }
    if (ending && !sentence.empty()) {
        close_sentence(*ending, n_sampled);
    }
    is_complete = true;
}

std::optional<double> answer_features::judge(const feature_window & window) const {
    const verdict_head * head = eng.verdict();
    return head ? probability_of_error(*head, prompt, window.means(), window.figures()) : std::nullopt;
}

std::optional<double> answer_features::p_wrong() const {
    const verdict_head * head = eng.verdict();
    if (head && head->whole_answer) {
        return is_complete ? judge(whole) : std::nullopt;
    }
    return closed.empty() ? std::nullopt : closed.front().p_wrong;
}

} // namespace metadeploy
