// Where the sentences of a text end. Twin of the rule in metadeploy/data/checker.py, which judges first sentences.
#pragma once

#include <cstddef>
#include <optional>
#include <string>

namespace metadeploy {

struct sentence_span { // in bytes
    size_t begin;
    size_t end; // after its closing punctuation
};

// Returns the first sentence, or line, that begins at byte `from` or after it. Returns nothing if it is not complete
// yet: the mark at its end may belong to an abbreviation or a number as long as the text stops there. is_final: the
// text does not grow any more, and its rest is a sentence.
std::optional<sentence_span> next_sentence(const std::string & text, size_t from, bool is_final);

} // namespace metadeploy
