// Whether an answer is the trained refusal.
#pragma once

#include <string>

namespace metadeploy {

// Decided by the opening sentence alone, never by a phrase later in the answer: lower-cased, with straight quotes and
// single spaces, it must share its first words with the refusal text, at least three and at least 60 % of the refusal's
// (quantized models vary the tail of the sentence). If the answer was cut off inside that sentence (truncated), all
// of its words, at least three, must be the refusal's first; one more may be cut off in the middle. A Chinese or
// Japanese character counts as a word, because these languages do not put spaces between words.
bool is_abstention(const std::string & answer, const std::string & refusal_text, bool truncated);

// Says why a text cannot be a refusal, as a phrase without a subject: its first sentence has fewer than three words.
// Empty if it can be one.
std::string refusal_text_fault(const std::string & refusal_text);

} // namespace metadeploy
