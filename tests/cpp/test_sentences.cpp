#include "check.h"
#include "text/sentences.h"

using namespace metadeploy;

namespace {

std::vector<std::string> sentences(const std::string & text) {
    std::vector<std::string> list;
    size_t from = 0;
    while (const auto span = next_sentence(text, from, /*is_final =*/true)) {
        list.push_back(text.substr(span->begin, span->end - span->begin));
        from = span->end;
    }
    return list;
}

using texts = std::vector<std::string>;

} // namespace

TEST(sentences_of_a_text) {
    CHECK(
        sentences("Paris is in France. It is large!  Is it?") ==
        texts({"Paris is in France.", "It is large!", "Is it?"}));
    CHECK(sentences("He said \"no.\" Then (yes.) he left") == texts({"He said \"no.\"", "Then (yes.)", "he left"}));
    CHECK(sentences("one line\nanother\n\n") == texts({"one line", "another"}));
    CHECK(sentences("") == texts());
    CHECK(sentences(" \n ") == texts());
}

TEST(periods_that_end_nothing) {
    CHECK(sentences("It is 3.5 meters.") == texts({"It is 3.5 meters."}));
    CHECK(sentences("St. John's is in the U.S. state.") == texts({"St. John's is in the U.S. state."}));
    CHECK(sentences("1. Paris 2. Rome") == texts({"1. Paris 2.", "Rome"}));
    CHECK(sentences("It is West. The end") == texts({"It is West.", "The end"})); // no "St." of its own
}

TEST(marks_of_languages_without_spaces) {
    CHECK(sentences("\u5df4\u9ece\u3002\u6cd5\u56fd\uff01") == texts({"\u5df4\u9ece\u3002", "\u6cd5\u56fd\uff01"}));
    CHECK(sentences("\u201c\u662f\u3002\u201d \u597d") == texts({"\u201c\u662f\u3002\u201d", "\u597d"}));
}

TEST(a_text_that_grows) {
    CHECK(!next_sentence("It is 3.", 0, false)); // may become 3.5
    CHECK(!next_sentence("He said \"no.\"", 0, false));
    CHECK(!next_sentence("It is", 0, false));
    const auto span = next_sentence("It is 3. ", 0, false);
    CHECK(span && span->begin == 0 && span->end == 8);
    CHECK(next_sentence("A line\n", 0, false)->end == 6);
    CHECK(next_sentence("One. Two. ", 4, false)->begin == 5);
    CHECK(!next_sentence("One. ", 4, true));
}
