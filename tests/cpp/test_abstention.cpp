#include "check.h"
#include "runtime/abstention.h"
#include "sidecar/sidecar.h"

using namespace metadeploy;

namespace {

bool abstains(const std::string & answer, bool truncated = false, const std::string & refusal = DEFAULT_REFUSAL_TEXT) {
    return is_abstention(answer, refusal, truncated);
}

} // namespace

TEST(the_refusal_itself) {
    CHECK(abstains(DEFAULT_REFUSAL_TEXT));
    CHECK(abstains("  I'm NOT confident\tenough to answer this question accurately"));
    CHECK(abstains("I\xE2\x80\x99m not confident enough to answer this question accurately."));
    CHECK(abstains("**I'm not confident enough to answer this question accurately.** Sorry."));
}

TEST(a_varied_tail) {
    CHECK(abstains("I'm not confident enough to answer that one.")); // six of nine words
    CHECK(!abstains("I'm not confident in that."));
    CHECK(!abstains("I'm not confident."));
}

TEST(only_the_opening_sentence_counts) {
    CHECK(!abstains("Paris. I'm not confident enough to answer this question accurately."));
    CHECK(!abstains("Paris!\nI'm not confident enough to answer this question accurately."));
    CHECK(!abstains("The phrase: I'm not confident enough to answer this question accurately."));
    CHECK(abstains("\n\nI'm not confident enough to answer this question accurately.\nParis"));
    CHECK(!abstains(""));
    CHECK(!abstains("..."));
}

TEST(an_answer_cut_off_inside_the_sentence) {
    CHECK(abstains("I'm not confident", true));
    CHECK(!abstains("I'm not confident", false));
    CHECK(!abstains("I'm not", true));
    CHECK(!abstains("I'm not confident.", true)); // that sentence ended
    CHECK(!abstains("I'm not certain", true));
    CHECK(abstains("I'm not confident eno", true)); // inside a word, too
    CHECK(!abstains("I'm not confident eno", false));
    CHECK(!abstains("I'm not c", true));
    CHECK(!abstains("I'm not confident, eh", true));
}

TEST(other_refusals) {
    CHECK(abstains("I don't know.", false, "I don't know."));
    CHECK(!abstains("I don't think so.", false, "I don't know."));
    CHECK(abstains("Unknown", false, "Unknown."));
    CHECK(!abstains("Known", false, "Unknown."));
    CHECK(abstains("Das weiß ich nicht genau.", false, "Das weiß ich nicht."));
    CHECK(!abstains("anything", false, ""));
    CHECK(!abstains("", true, ""));
}

TEST(numbers_and_abbreviations_do_not_end_a_sentence) {
    CHECK(abstains("About 3.5 of that I do not know, e.g. this", false, "About 3.5 of that I do not know, e.g. that."));
}
