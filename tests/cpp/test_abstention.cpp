#include "check.h"
#include "sidecar/sidecar.h"
#include "text/abstention.h"

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

TEST(refusals_without_spaces_between_words) {
    const std::string refusal = "我没有足够的信息来可靠地回答这个问题。";
    CHECK(abstains(refusal, false, refusal));
    CHECK(abstains("我没有足够的信息来可靠地回答这个。但是……", false, refusal)); // the first 16 of 18
    CHECK(abstains("**我没有足够的信息，来可靠地回答这个问题！**\n好", false, refusal));
    CHECK(abstains("我没有足够的", true, refusal));
    CHECK(!abstains("我没有足够的", false, refusal));
    CHECK(!abstains("我没有意见。", false, refusal));
    CHECK(!abstains("巴黎。我没有足够的信息来可靠地回答这个问题。", false, refusal));
    CHECK(!abstains("\xE6\x88", true, refusal)); // half a character
}

TEST(texts_that_can_be_a_refusal) {
    for (const char * text :
         {DEFAULT_REFUSAL_TEXT, "I don't have enough information to answer that reliably.", "I do not know.",
          "**I don't know** – sorry", "Das weiß ich nicht. 🤷", "我不知道。", "分かりません。"}) {
        CHECK_EQ(refusal_text_fault(text), "");
        CHECK(abstains(text, false, text));
    }
    CHECK(refusal_text_fault("").find("has no words in its first sentence, expected at least 3") == 0);
    CHECK(refusal_text_fault(" \n.").find("has no words in its first sentence, expected at least 3") == 0);
    CHECK(refusal_text_fault("Unknown").find("has one word in its first sentence, expected at least 3") == 0);
    CHECK(refusal_text_fault("No idea. I really do not know.").find("has 2 words in its first sentence") == 0);
    CHECK(refusal_text_fault("不。我不知道。").find("has one word in its first sentence") == 0);
}
