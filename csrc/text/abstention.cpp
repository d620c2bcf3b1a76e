#include "text/abstention.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <vector>

namespace metadeploy {

namespace {

constexpr double MIN_SHARE = 0.6;
constexpr size_t MIN_WORDS = 3;

// Whether three bytes are the UTF-8 of a Chinese or Japanese character or punctuation mark (U+3000 to U+9FFF).
bool is_ideograph(const std::string & triple) {
    return triple.size() == 3 && (unsigned char)triple[0] >= 0xE3 && (unsigned char)triple[0] <= 0xE9;
}

bool is_wide_sentence_end(const std::string & triple) {
    return triple == "\xE3\x80\x82" || triple == "\xEF\xBC\x81" || triple == "\xEF\xBC\x9F"; // 。！？
}

bool is_wide_punctuation(const std::string & triple) {
    return triple.compare(0, 2, "\xE3\x80") == 0 || triple == "\xEF\xBC\x8C"; // U+3000 to U+303F, and ，
}

struct opening {
    std::vector<std::string> words;
    bool ended = false; // by the end of a sentence or of a line
};

opening opening_sentence(const std::string & text) {
    std::string straight;
    for (size_t i = 0; i < text.size(); ++i) {
        const std::string triple = text.substr(i, 3);
        if (triple == "\xE2\x80\x99" || triple == "\xE2\x80\x98") { // ’ and ‘
            straight += '\'';
            i += 2;
        } else {
            straight += text[i];
        }
    }
    opening result;
    std::string word;
    const auto end_word = [&] {
        if (!word.empty()) {
            result.words.push_back(word);
            word.clear();
        }
    };
    for (size_t i = 0; i < straight.size() && !result.ended; ++i) {
        const unsigned char c = (unsigned char)straight[i];
        const std::string triple = straight.substr(i, 3);
        if (is_ideograph(triple) || is_wide_sentence_end(triple) || is_wide_punctuation(triple)) {
            end_word();
            i += 2;
            if (is_wide_sentence_end(triple)) {
                result.ended = !result.words.empty();
            } else if (!is_wide_punctuation(triple)) {
                result.words.push_back(triple); // these languages do not put spaces between words
            }
            continue;
        }
        const bool line_end = c == '\n';
        // "3.5" and "e.g." do not end a sentence, "accurately." does
        const bool sentence_end = (c == '.' || c == '!' || c == '?') &&
                                  (i + 1 == straight.size() || std::isspace((unsigned char)straight[i + 1]) ||
                                   straight[i + 1] == '"' || straight[i + 1] == '*');
        if (line_end || sentence_end) {
            end_word();
            result.ended = !result.words.empty();
        } else if (std::isalnum(c) || c == '\'' || c >= 0x80) {
            word += (char)std::tolower(c);
        } else {
            end_word();
        }
    }
    end_word();
    return result;
}

} // namespace

bool is_abstention(const std::string & answer, const std::string & refusal_text, bool truncated) {
    const opening given = opening_sentence(answer);
    const opening trained = opening_sentence(refusal_text);
    size_t n_shared = 0;
    while (n_shared < given.words.size() && n_shared < trained.words.size() &&
           given.words[n_shared] == trained.words[n_shared]) {
        ++n_shared;
    }
    if (truncated && !given.ended) {
        const bool last_cut_off = n_shared + 1 == given.words.size() && n_shared < trained.words.size() &&
                                  trained.words[n_shared].rfind(given.words[n_shared], 0) == 0;
        if (n_shared == given.words.size() || last_cut_off) {
            return n_shared >= std::min(MIN_WORDS, trained.words.size()) && n_shared > 0;
        }
    }
    const size_t needed = std::max(MIN_WORDS, (size_t)std::ceil(MIN_SHARE * (double)trained.words.size()));
    return n_shared >= std::min(needed, trained.words.size()) && n_shared > 0;
}

std::string refusal_text_fault(const std::string & refusal_text) {
    const size_t n_words = opening_sentence(refusal_text).words.size();
    if (n_words >= MIN_WORDS) {
        return "";
    }
    const std::string found = n_words == 0   ? "no words"
                              : n_words == 1 ? "one word"
                                             : std::to_string(n_words) + " words";
    return "has " + found + " in its first sentence, expected at least " + std::to_string(MIN_WORDS) +
           ": an answer counts as declined if it begins with the first words of that sentence";
}

} // namespace metadeploy
