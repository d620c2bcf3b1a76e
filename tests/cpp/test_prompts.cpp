#include "check.h"
#include "cli/prompts.h"
#include "errors.h"

using namespace metadeploy;
using namespace metadeploy::testing;

namespace {

std::vector<prompt_item> read(const std::string & content, bool nul_separated = false) {
    const temp_dir dir;
    return read_prompts(dir.write("prompts", content), nul_separated);
}

std::string joined(const std::vector<prompt_item> & items) {
    std::string all;
    for (const prompt_item & item : items) {
        all += item.prompt + "|";
    }
    return all;
}

result_counts count(const temp_dir & dir, const std::string & results, const std::vector<prompt_item> & prompts) {
    return count_results(dir.write("results.jsonl", results), prompts);
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
}

TEST(bad_json_lines_are_named) {
    const std::string good = "{\"prompt\": \"a\"}\n";
    CHECK_THROWS(error, read(good + "nope"), "line 2 is not a JSON object");
    CHECK_THROWS(error, read(good + "\n[1]"), "line 3 is not a JSON object");
    CHECK_THROWS(error, read(good + "{\"text\": \"b\"}"), "line 2 has none of");
    CHECK_THROWS(error, read(good + "{\"prompt\": 5}"), "line 2 has none of");
    CHECK_THROWS(error, read("{\"prompt\": \"\xff\"}"), "line 1 is not a JSON object");
    for (const char * messages :
         {"[]", "null", "\"x\"", "[5]", "[{\"role\": \"user\"}]", "[{\"role\": 1, \"content\": 2}]"}) {
        CHECK_THROWS(error, read(std::string("{\"messages\": ") + messages + "}"), "line 1");
    }
}

TEST(nul_separated_texts) {
    using namespace std::string_literals;
    CHECK_EQ(joined(read("one\0two\nlines\0"s, true)), "one|two\nlines|");
    CHECK_EQ(joined(read("one\0two\n"s, true)), "one|two\n|");
    CHECK_EQ(joined(read("one\0\n"s, true)), "one|");
    CHECK_THROWS(error, read("", true), "holds no prompt");
}

TEST(results_are_counted) {
    const temp_dir dir;
    const auto prompts = read("one\ntwo\nthree\n");
    CHECK_EQ(count_results((dir.path / "absent").u8string(), prompts).n, 0u);
    CHECK_EQ(count(dir, "", prompts).n, 0u);
    const result_counts found =
        count(dir, "{\"prompt\": \"one\", \"abstained\": true}\n{\"prompt\": \"two\", \"error\": \"x\"}\n", prompts);
    CHECK_EQ(found.n, 2u);
    CHECK_EQ(found.n_failed, 1u);
    CHECK_EQ(found.n_abstained, 1u);
}

TEST(an_incomplete_last_line_is_cut_off) {
    const temp_dir dir;
    const auto prompts = read("one\ntwo\nthree\n");
    CHECK_EQ(count(dir, "{\"prompt\": \"one\"}\n{\"prompt\": \"tw", prompts).n, 1u);
    std::ifstream file(dir.path / "results.jsonl");
    std::string rest{std::istreambuf_iterator<char>(file), {}};
    CHECK_EQ(rest, "{\"prompt\": \"one\"}\n");
}

TEST(results_of_other_prompts_are_refused) {
    const temp_dir dir;
    const auto prompts = read("one\ntwo\n");
    for (const char * results :
         {"{\"prompt\": \"two\"}\n", "{\"prompt\": 5}\n", "{}\n", "nonsense\n", "[]\n",
          "{\"prompt\": \"one\"}\n{\"prompt\": \"two\"}\n{\"prompt\": \"three\"}\n"}) {
        CHECK_THROWS(error, count(dir, results, prompts), "is not the result of prompt");
    }
}

TEST(prompts_that_are_no_utf8_can_be_resumed) {
    const temp_dir dir;
    const auto prompts = read("\xff one\n");
    CHECK_EQ(count(dir, dump_json({{"prompt", prompts[0].prompt}}) + "\n", prompts).n, 1u);
}
