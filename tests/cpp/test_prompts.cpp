#include "check.h"
#include "cli/option_keys.h"
#include "cli/prompts.h"
#include "errors.h"

using namespace metadeploy;
using namespace metadeploy::testing;

namespace {

using namespace std::string_literals;

prompt_list read_list(const std::string & content, bool nul_separated = false) {
    const temp_dir dir;
    return read_prompts(dir.write("prompts", content), nul_separated);
}

std::vector<prompt_item> read(const std::string & content, bool nul_separated = false) {
    return read_list(content, nul_separated).items;
}

std::string joined(const std::vector<prompt_item> & items) {
    std::string all;
    for (const prompt_item & item : items) {
        all += item.prompt + "|";
    }
    return all;
}

} // namespace

TEST(plain_lines) {
    CHECK_EQ(joined(read("one\ntwo  \r\n\n   \nthree")), "one|two  |three|");
    CHECK_EQ(joined(read("\xEF\xBB\xBFone\n")), "one|");
    CHECK_EQ(joined(read("a \"quoted\" one\n[1]\n")), "a \"quoted\" one|[1]|");
    CHECK(read("one")[0].id.is_null());
    CHECK(read("one")[0].messages.empty());
    CHECK_THROWS(error, read(""), "holds no prompt");
    CHECK_THROWS(error, read("\n \r\n"), "holds no prompt");
    CHECK_THROWS(error, read_prompts("/no/such/file", false), "'/no/such/file' cannot be opened");
    CHECK_THROWS(error, read_prompts("/", false), "'/' is a directory");
    CHECK_EQ(joined(read("one\rtwo\r\nthree\n")), "one|two|three|"); // ends of lines of any kind
}

TEST(texts_that_look_a_little_like_json) {
    CHECK_EQ(joined(read("[1] Who?\n[2] What?\n")), "[1] Who?|[2] What?|");
    CHECK_EQ(joined(read("{x | x > 0} is what?\n{y}\n")), "{x | x > 0} is what?|{y}|");
    CHECK_EQ(joined(read("\"Hello\" is in which language?\n42\nnull\n")), "\"Hello\" is in which language?|42|null|");
    CHECK_EQ(joined(read("Who said this?\n\"I have a dream\"\n")), "Who said this?|\"I have a dream\"|");
}

TEST(json_texts) {
    CHECK_EQ(joined(read("\"a\\nb\"\n\n\"c\"\n")), "a\nb|c|");
    CHECK_EQ(joined(read("{\"prompt\": \"a\"}\n\"b\"\n")), "a|b|");
    CHECK_THROWS(error, read("\"a\"\n\" \"\n"), "line 2 is empty, expected a text");
}

TEST(json_arrays) {
    CHECK_EQ(joined(read("[\n {\"prompt\": \"a\"},\n \"b\"]\n")), "a|b|");
    const auto items = read(R"([{"id": 1, "question": "a", "gain": 0.5}])");
    CHECK_EQ(items[0].id.get<int>(), 1);
    CHECK_EQ(items[0].gain.value(), 0.5);
    CHECK_THROWS(error, read("[]"), "holds no prompt");
    CHECK_THROWS(error, read("[\"a\", 5]"), "prompt 2 is 5, expected a text or a JSON object");
    CHECK_THROWS(error, read("[\"a\", [\"b\"]]"), "prompt 2 is");
    CHECK_THROWS(error, read("[\n{\"prompt\": \"a\"},\n]"), "begins as a JSON array but is not one");
    CHECK_THROWS(error, read("[\"a\" \"b\"]"), "begins as a JSON array but is not one");
    CHECK_THROWS(error, read("{\n\"prompt\": \"a\"\n}\n"), "line 1 is not a JSON object");
}

TEST(one_format_for_a_file) {
    CHECK_THROWS(error, read("Who?\n{\"prompt\": \"a\"}\n"), "line 2 is a JSON object and the first line");
    CHECK_THROWS(error, read("{\"prompt\": \"a\"}\nWho?\n"), "line 2 is not a JSON object");
}

TEST(other_encodings_are_refused) {
    const std::string text = "W\0h\0o\0?\0\n\0"s;
    CHECK_THROWS(error, read("\xFF\xFE"s + text), "is UTF-16 or UTF-32", "expected UTF-8", "iconv");
    CHECK_THROWS(error, read("\xFE\xFF\0W\0h"s), "is UTF-16 or UTF-32");
    CHECK_THROWS(error, read(text), "a NUL in every other byte, as UTF-16 has");
    CHECK_THROWS(error, read("one question of some length\ntwo\0\n"s), "line 2 holds a NUL byte");
    CHECK_THROWS(
        error,
        read(
            "one\nGr\xF6\xDF"
            "e\n"),
        "line 2 has the byte 0xF6", "expected UTF-8");
    for (const char * bad : {"\xC0\xAF", "\xE0\x80\xAF", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xE2\x82", "\x80"}) {
        CHECK_THROWS(error, read(std::string(bad) + "\n"), "line 1 has the byte");
    }
    CHECK_EQ(joined(read("Größe, 首都 und 😀\n")), "Größe, 首都 und 😀|");
}

TEST(keys_that_look_like_options_are_refused) {
    for (const char * key :
         {"goal", "threshold", "doubt_threshold", "temperature", "Temp", "max_tokens", "max-tokens", "maxTokens",
          "system", "seed", "stop", "top_p", "schedule", "inject", "temperaturex", "max_token", "doubt_treshold",
          "n"}) {
        CHECK(!option_meant(key).empty());
        const std::string line = "{\"prompt\": \"a\", \"" + std::string(key) + "\": 1}";
        CHECK_THROWS(error, read("{\"prompt\": \"a\"}\n" + line), "line 2 has the key", key, "looks like an option");
        CHECK_THROWS(error, read("[" + line + "]"), "prompt 1 has the key", key);
    }
    CHECK_EQ(read(R"({"prompt": "a", "temperature": null})").size(), 1u); // null sets no option
}

TEST(keys_of_data_are_named) {
    const prompt_list found = read_list(
        "{\"question\": \"a\", \"answers\": [\"x\"], \"category\": \"geo\"}\n"
        "{\"question\": \"b\", \"answers\": [], \"entity\": \"e\", \"id\": 1, \"gain\": 1}\n");
    CHECK_EQ(found.items.size(), 2u);
    CHECK(found.unused == (std::vector<std::string>{"answers", "category", "entity"}));
    for (const char * key :
         {"answers", "answer",    "category",    "entity",     "choices", "subject", "level",    "source",
          "context", "split",     "type",        "difficulty", "domain",  "topic",   "language", "label",
          "target",  "reference", "explanation", "metadata",   "tags",    "title",   "text",     "url",
          "index",   "options",   "output",      "model",      "name"}) {
        CHECK_EQ(option_meant(key), "");
    }
}

TEST(empty_prompts_are_refused) {
    CHECK_THROWS(error, read("{\"prompt\": \"a\"}\n{\"prompt\": \"\"}"), "line 2: \"prompt\" is empty");
    CHECK_THROWS(error, read("{\"question\": \" \\n\"}"), "line 1: \"question\" is empty");
    CHECK_THROWS(
        error, read(R"({"messages": [{"role": "user", "content": ""}]})"), "the last message of the user is empty");
    CHECK_THROWS(error, read("one\0\0two\0"s, true), "prompt 2 is empty");
}

TEST(what_is_said_twice_is_refused) {
    CHECK_THROWS(error, read(R"({"prompt": "a", "question": "b"})"), "has \"prompt\" and \"question\"");
    CHECK_EQ(joined(read(R"({"prompt": "a", "messages": null})")), "a|");
}

TEST(json_lines) {
    const auto items = read("{\"id\": 7, \"prompt\": \"a\\nb\"}\n\n{\"question\": \"c\", \"more\": [1]}\r\n");
    CHECK_EQ(joined(items), "a\nb|c|");
    CHECK_EQ(items[0].id.get<int>(), 7);
    CHECK(items[1].id.is_null());
    CHECK_EQ(joined(read("\xEF\xBB\xBF{\"prompt\": \"a\"}")), "a|");
}

TEST(conversations) {
    const auto items = read(
        R"({"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]})"
        "\n");
    CHECK_EQ(items[0].messages.size(), 2u);
    CHECK_EQ(items[0].messages[0].role, "system");
    CHECK_EQ(items[0].prompt, "u");
    const auto parts = read(
        R"({"messages": [{"role": "user", "name": null, "content": [{"type": "text", "text": "u"}, {"type": "text", "text": "v"}]}]})");
    CHECK_EQ(parts[0].prompt, "u\nv");
    for (const char * bad :
         {R"([{"type": "image_url", "image_url": "x"}])", R"(["u"])", "[]", "null", "5", R"([{"type": "text"}])"}) {
        CHECK_THROWS(error, read(R"({"messages": [{"role": "user", "content": )" + std::string(bad) + "}]}"), "line 1");
    }
    CHECK_THROWS(
        error, read(R"({"messages": [{"role": "user", "content": "u", "tool_calls": [1]}]})"), "a message has the key");
}

TEST(bad_json_lines_are_named) {
    const std::string good = "{\"prompt\": \"a\"}\n";
    CHECK_THROWS(error, read(good + "nope"), "line 2 is not a JSON object");
    CHECK_THROWS(error, read(good + "\n[1]"), "line 3 is not a JSON object");
    CHECK_THROWS(error, read(good + "{\"text\": \"b\"}"), "line 2 has none of");
    CHECK_THROWS(error, read(good + "{\"prompt\": 5}"), "line 2: \"prompt\" is 5, expected a text");
    CHECK_THROWS(error, read(good + "{\"prompt\": null}"), "line 2 has none of");
    CHECK_THROWS(error, read("{\"prompt\": \"\xff\"}"), "line 1 has the byte 0xFF");
    for (const char * messages :
         {"[]", "null", "\"x\"", "[5]", "[{\"role\": \"user\"}]", "[{\"role\": 1, \"content\": 2}]"}) {
        CHECK_THROWS(error, read(std::string("{\"messages\": ") + messages + "}"), "line 1");
    }
}

TEST(nul_separated_texts) {
    CHECK_EQ(joined(read("one\0two\nlines\0"s, true)), "one|two\nlines|");
    CHECK_EQ(joined(read("one\0two\n"s, true)), "one|two\n|");
    CHECK_EQ(joined(read("one\0\n"s, true)), "one|");
    CHECK_THROWS(error, read("", true), "holds no prompt");
}
