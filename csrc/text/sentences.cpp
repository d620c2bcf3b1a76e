#include "text/sentences.h"

#include <cctype>
#include <initializer_list>

namespace metadeploy {

namespace {

bool is_space(char c) {
    return std::isspace((unsigned char)c) != 0;
}

// Whether the character that ends before byte i belongs to a word. Beyond ASCII, all do but the usual punctuation.
bool is_word_before(const std::string & text, size_t i) {
    const auto byte = [&](size_t at) { return (unsigned char)text[at]; };
    if (byte(i - 1) < 0x80) {
        return std::isalnum(byte(i - 1)) || text[i - 1] == '_';
    }
    size_t first = i - 1;
    while (first > 0 && (byte(first) & 0xC0) == 0x80) {
        --first;
    }
    const unsigned char second = first + 1 < i ? byte(first + 1) : 0;
    const bool is_punctuation = (byte(first) == 0xE2 && (second == 0x80 || second == 0x81)) ||   // U+2000 to U+207F
                                (byte(first) == 0xE3 && second == 0x80) ||                       // U+3000 to U+303F
                                (byte(first) == 0xEF && second == 0xBC && byte(i - 1) < 0x90) || // U+FF00 to U+FF0F
                                (byte(first) == 0xC2 && (second == 0xAB || second == 0xBB));     // « and »
    return !is_punctuation;
}

// the length of the candidate that the text has at i, or 0
size_t match_any(const std::string & text, size_t i, std::initializer_list<const char *> candidates) {
    for (const char * candidate : candidates) {
        const std::string wanted = candidate;
        if (text.compare(i, wanted.size(), wanted) == 0) {
            return wanted.size();
        }
    }
    return 0;
}

size_t skip_closers(const std::string & text, size_t i) {
    while (const size_t n = match_any(text, i, {"\"", "'", ")", "\u201d", "\u2019", "\u300d", "\u300f"})) {
        i += n;
    }
    return i;
}

// Whether the mark at i belongs to "St. John's", "the U.S." or the number of an item at the sentence's beginning.
bool is_abbreviation(const std::string & text, size_t begin, size_t i) {
    const size_t n = i - begin;
    if (n >= 2 && match_any(text, i - 2, {"St", "Mt", "Ft"}) > 0) {
        return n == 2 || !is_word_before(text, i - 2);
    }
    if (n >= 2 && text[i - 2] == '.' && text[i - 1] >= 'A' && text[i - 1] <= 'Z') {
        return true;
    }
    return n == 1 && std::isdigit((unsigned char)text[begin]);
}

size_t trim_end(const std::string & text, size_t begin, size_t end) {
    while (end > begin && is_space(text[end - 1])) {
        --end;
    }
    return end;
}

} // namespace

std::optional<sentence_span> next_sentence(const std::string & text, size_t from, bool is_final) {
    size_t begin = from;
    while (begin < text.size() && is_space(text[begin])) {
        ++begin;
    }
    for (size_t i = begin; i < text.size(); ++i) {
        if (text[i] == '\n') {
            return sentence_span{begin, trim_end(text, begin, i)};
        }
        if (const size_t wide = match_any(text, i, {"\u3002", "\uff01", "\uff1f"})) { // 。！？
            const size_t end = skip_closers(text, i + wide);
            if (end < text.size() || is_final) {
                return sentence_span{begin, end};
            }
            return std::nullopt;
        }
        const bool is_mark = text[i] == '.' || text[i] == '!' || text[i] == '?';
        if (!is_mark || is_abbreviation(text, begin, i)) {
            continue;
        }
        const size_t end = skip_closers(text, i + 1);
        if (end < text.size() ? is_space(text[end]) : is_final) {
            return sentence_span{begin, end};
        }
    }
    if (is_final && begin < text.size()) {
        return sentence_span{begin, trim_end(text, begin, text.size())};
    }
    return std::nullopt;
}

} // namespace metadeploy
