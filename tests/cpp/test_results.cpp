#include "check.h"
#include "cli/results.h"
#include "cli/settings.h"
#include "errors.h"

using namespace metadeploy;
using namespace metadeploy::testing;

namespace {

using json = nlohmann::ordered_json;

const json SETTINGS = {
    {"-m", {{"name", "base.gguf"}, {"xxh128", "01"}}}, {"--meta-gain", 1.0}, {"-n", 9}, {"--meta-goal", ""}};

std::vector<prompt_item> prompts(const std::vector<std::string> & texts) {
    std::vector<prompt_item> items;
    for (const std::string & text : texts) {
        items.push_back({nullptr, text, {}});
    }
    return items;
}

std::string content(const std::string & path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

// results as the program writes them
std::string written(const temp_dir & dir, const std::vector<prompt_item> & items, const json & settings = SETTINGS) {
    const std::string path = dir.write("written.jsonl", "");
    result_lines lines(path, items, settings);
    for (size_t i = 0; i < items.size(); ++i) {
        lines.write(i, {{"text", "t"}, {"abstained", i == 1}});
    }
    lines.finish();
    return content(path);
}

result_counts found(
    const temp_dir & dir,
    const std::string & text,
    const std::vector<prompt_item> & items,
    const json & settings = SETTINGS) {
    return result_lines(dir.write("results.jsonl", text), items, settings).found();
}

json changed(const std::string & key, const json & value) {
    json settings = SETTINGS;
    settings[key] = value;
    return settings;
}

} // namespace

TEST(each_line_says_what_it_depends_on) {
    const temp_dir dir;
    auto items = prompts({"one", "two"});
    items[1].id = 7;
    const std::string text = written(dir, items);
    const size_t end = text.find('\n');
    const json first = json::parse(text.substr(0, end));
    const json second = json::parse(text.substr(end));
    CHECK_EQ(first["settings"], SETTINGS);
    CHECK(!second.contains("settings"));
    CHECK_EQ(first["run"].get<std::string>().size(), 16u);
    CHECK_EQ(second["run"].get<std::string>(), run_id(SETTINGS, items[1]));
    CHECK_EQ(second["id"].get<int>(), 7);
    CHECK_EQ(text.rfind("{\"index\":0,\"prompt\":\"one\",\"text\":", 0), 0u);
}

TEST(results_are_counted) {
    const temp_dir dir;
    const auto items = prompts({"one", "two", "three"});
    CHECK_EQ(result_lines((dir.path / "new").u8string(), items, SETTINGS).found().n, 0u);
    CHECK_EQ(found(dir, "", items).n, 0u);
    const result_counts counts = found(dir, written(dir, items), items);
    CHECK_EQ(counts.n, 3u);
    CHECK_EQ(counts.n_failed, 0u);
    CHECK_EQ(counts.n_abstained, 1u);
    const std::string path = dir.write("failed.jsonl", "");
    result_lines(path, items, SETTINGS).write(0, {{"error", "x"}});
    CHECK_EQ(result_lines(path, items, SETTINGS).found().n_failed, 1u);
}

TEST(an_incomplete_last_line_is_cut_off) {
    const temp_dir dir;
    const auto items = prompts({"one", "two", "three"});
    const std::string whole = written(dir, items);
    const size_t first = whole.find('\n') + 1;
    for (size_t kept = first; kept < whole.find('\n', first); ++kept) {
        CHECK_EQ(found(dir, whole.substr(0, kept), items).n, 1u);
        CHECK_EQ(content((dir.path / "results.jsonl").u8string()), whole.substr(0, first));
    }
}

TEST(what_the_program_has_not_begun_is_not_cut_off) {
    const temp_dir dir;
    const auto items = prompts({"one", "two"});
    const std::string whole = written(dir, items);
    for (const std::string & text :
         {std::string("my notes"), std::string("{\"index\":0,\"prompt\":\"ano"), whole + "{\"index\":2", whole + "x",
          whole.substr(0, whole.find('\n') + 1) + "{\"index\":0,"}) {
        CHECK_THROWS(error, found(dir, text, items), "is incomplete, and not the beginning of a result");
        CHECK_EQ(content((dir.path / "results.jsonl").u8string()), text);
    }
}

TEST(results_of_other_prompts_are_refused) {
    const temp_dir dir;
    const auto items = prompts({"one", "two"});
    for (const std::string & results :
         {std::string("{\"prompt\": 5}\n"), std::string("{}\n"), std::string("nonsense\n"), std::string("[]\n"),
          written(dir, prompts({"two", "one"})), written(dir, prompts({"one", "two", "three"}))}) {
        CHECK_THROWS(error, found(dir, results, items), "is not the result of prompt", "give another --output");
    }
    auto named = items;
    named[0].id = "a";
    CHECK_THROWS(error, found(dir, written(dir, items), named), "line 1 is not the result of prompt 1");
}

TEST(results_of_other_settings_are_refused_with_what_differs) {
    const temp_dir dir;
    const auto items = prompts({"one", "two"});
    const std::string results = written(dir, items);
    const auto refused = [&](const json & settings, const std::string & fault) {
        CHECK_THROWS(error, found(dir, results, items, settings), "holds results of other settings", fault);
        CHECK_EQ(content((dir.path / "results.jsonl").u8string()), results);
    };
    refused(changed("-n", 5), "-n was 9, is 5");
    refused(changed("--meta-goal", "x"), "--meta-goal was \"\", is \"x\"");
    refused(changed("--new", 1), "--new was not given, is 1");
    refused(changed("-m", {{"name", "b.gguf"}, {"xxh128", "02"}}), "-m was \"base.gguf\", is \"b.gguf\"");
    refused(
        changed("-m", {{"name", "base.gguf"}, {"xxh128", "02"}}), "-m was another file with the name \"base.gguf\"");
    json none = SETTINGS;
    none.erase("--meta-gain");
    refused(none, "--meta-gain was 1.0, is not given");
    // the same file by another name
    CHECK_EQ(found(dir, results, items, changed("-m", {{"name", "b.gguf"}, {"xxh128", "01"}})).n, 2u);
}

TEST(each_line_is_held_to_what_was_asked) {
    const temp_dir dir;
    auto items = prompts({"one", "two"});
    items[1].messages = {{"system", "s"}, {"user", "two"}};
    const std::string results = written(dir, items);
    CHECK_EQ(found(dir, results, items).n, 2u);
    auto other = items;
    other[1].messages[0].content = "another";
    CHECK_THROWS(
        error, found(dir, results, other), "line 2 was made with other settings, another gain or another conv");
    other = items;
    other[1].gain = 0.5;
    CHECK_THROWS(error, found(dir, results, other), "line 2 was made with other settings, another gain");
    // two files in one
    const std::string first = results.substr(0, results.find('\n') + 1);
    const std::string elsewhere = written(dir, items, changed("-n", 5));
    CHECK_THROWS(
        error, found(dir, first + elsewhere.substr(elsewhere.find('\n') + 1), items), "line 2 was made with other");
}

TEST(results_of_an_older_version_are_refused) {
    const temp_dir dir;
    CHECK_THROWS(
        error, found(dir, "{\"index\":0,\"prompt\":\"one\",\"text\":\"t\"}\n", prompts({"one"})),
        "line 1 does not say what it was made with (results of an older version?");
}

TEST(prompts_that_are_no_utf8_can_be_resumed) {
    const temp_dir dir;
    const auto items = prompts({"\xff one", "two\xc3"});
    const std::string results = written(dir, items);
    CHECK_EQ(found(dir, results, items).n, 2u);
    CHECK_EQ(found(dir, results.substr(0, results.size() - 10), items).n, 1u);
}

TEST(one_process_at_a_time_writes_results) {
    const temp_dir dir;
    const auto items = prompts({"one"});
    const std::string path = dir.write("results.jsonl", "");
    const result_lines first(path, items, SETTINGS);
    CHECK_THROWS(error, result_lines(path, items, SETTINGS), "is being written by another process");
}

TEST(texts_replace_a_file_when_all_are_there) {
    using namespace std::string_literals;
    const temp_dir dir;
    const std::string path = dir.write("texts", "old");
    {
        result_texts texts(path);
        texts.write("one");
    }
    CHECK_EQ(content(path), "old");
    result_texts texts(path);
    texts.write("one");
    texts.write("");
    texts.finish();
    CHECK_EQ(content(path), "one\0\0"s);
}

TEST(an_output_is_never_an_input) {
    const temp_dir dir;
    const std::string path = dir.write("prompts.txt", "one");
    std::filesystem::create_symlink(path, dir.path / "link");
    std::filesystem::create_hard_link(path, dir.path / "hard");
    const auto check = [](std::vector<std::string> arguments) {
        std::vector<char *> argv;
        for (std::string & argument : arguments) {
            argv.push_back(argument.data());
        }
        refuse_overwriting((int)argv.size(), argv.data());
    };
    for (const char * name : {"prompts.txt", "link", "hard"}) {
        const std::string output = (dir.path / name).u8string();
        for (const char * flag : {"-o", "--output", "--log-file"}) {
            CHECK_THROWS(
                error, (check({"program", "--prompts", path, flag, output}), 0),
                "is the same file as the input '" + path);
        }
    }
    dir.write("results.jsonl", "");
    check({"program", "--prompts", path, "-o", (dir.path / "results.jsonl").u8string()});
    check({"program", "-m", path, "--meta", path, "-o", (dir.path / "new").u8string()});
    setenv("META_SIDECAR", path.c_str(), 1);
    CHECK_THROWS(error, (check({"program", "-o", path}), 0), "is the same file as the input");
    unsetenv("META_SIDECAR");
    setenv("META_OUT", path.c_str(), 1);
    CHECK_THROWS(error, (check({"program", "--grammar-file", path}), 0), "is the same file as the input");
    unsetenv("META_OUT");
}
