#include "check.h"
#include "text/text_stream.h"

using namespace metadeploy;

namespace {

// all that was shown, piece by piece, with '|' between
std::string shown(text_stream & stream, const std::vector<std::string> & pieces) {
    std::string all;
    for (const std::string & piece : pieces) {
        all += stream.push(piece) + "|";
        if (stream.stopped()) {
            return all;
        }
    }
    return all + stream.flush();
}

} // namespace

TEST(text_without_stops_comes_at_once) {
    text_stream stream({});
    CHECK_EQ(shown(stream, {"Hello", ", ", "world"}), "Hello|, |world|");
    CHECK_EQ(stream.text(), "Hello, world");
    CHECK(!stream.stopped());
}

TEST(a_stop_string_is_not_shown) {
    text_stream stream({"END"});
    CHECK_EQ(shown(stream, {"a", "bENDc", "d"}), "a|b|");
    CHECK_EQ(stream.text(), "ab");
    CHECK(stream.stopped());
    CHECK_EQ(stream.flush(), "");
}

TEST(a_stop_string_split_over_pieces) {
    text_stream stream({"\n\nQ:"});
    CHECK_EQ(shown(stream, {"Paris.", "\n", "\n", "Q", ": next"}), "Paris.|||||");
    CHECK_EQ(stream.text(), "Paris.");
    CHECK(stream.stopped());
}

TEST(what_only_began_like_a_stop_string_is_shown_later) {
    text_stream stream({"\n\nQ:"});
    CHECK_EQ(shown(stream, {"a\n", "\n", "b\n\nQ"}), "a||\n\nb|\n\nQ");
    CHECK_EQ(stream.text(), "a\n\nb\n\nQ");
    CHECK(!stream.stopped());
}

TEST(the_first_of_several_stop_strings_counts) {
    text_stream stream({"xyz", "", "b", "abc"});
    CHECK_EQ(shown(stream, {"-a", "bc"}), "-||"); // "abc" begins before "b"
    CHECK(stream.stopped());
    text_stream overlapping({"aab"});
    CHECK_EQ(shown(overlapping, {"a", "a", "a", "b"}), "||a||");
    CHECK(overlapping.stopped());
}

TEST(characters_are_never_split) {
    text_stream stream({});
    // é, €, 😀 byte by byte
    CHECK_EQ(
        shown(stream, {"\xC3", "\xA9", "\xE2", "\x82", "\xAC", "\xF0", "\x9F", "\x98", "\x80!"}),
        "|\xC3\xA9|||\xE2\x82\xAC||||\xF0\x9F\x98\x80!|");
}

TEST(a_character_that_never_ends_comes_at_the_end) {
    text_stream stream({});
    CHECK_EQ(shown(stream, {"a\xF0\x9F"}), "a|\xF0\x9F");
    text_stream stray({});
    CHECK_EQ(shown(stray, {"\x80\x80\x80\x80\x80", "b"}), "\x80\x80\x80\x80\x80|b|");
}
