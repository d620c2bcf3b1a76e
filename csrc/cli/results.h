// Writes the results of a file of prompts.
#pragma once

#include "cli/prompts.h"
#include "files.h"

#include <nlohmann/json.hpp>

#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace metadeploy {

struct result_counts {
    size_t n = 0;
    size_t n_failed = 0;
    size_t n_abstained = 0;
};

// Results as JSON lines, on stdout or in a file. A file with results is continued, if they were made in the same way:
// each line has a "run", a digest of everything that it depends on. The first line also has the "settings" of all.
class result_lines {
public:
    // path: empty for stdout. An incomplete last line of the file is cut off. Throws error if the file cannot be
    // opened, if another process is writing it, or if it holds anything but results of the same prompts with
    // the same settings.
    result_lines(const std::string & path, const std::vector<prompt_item> & prompts, nlohmann::ordered_json settings);

    const result_counts & found() const { return counts; } // the results that the file holds already
    // Writes the result of the prompt with this index. Call it in order. Throws error.
    void write(size_t index, const nlohmann::ordered_json & found);
    void finish(); // flushes the results to disk. Throws error.

private:
    void count(const std::string & text);

    std::string path;
    const std::vector<prompt_item> & prompts;
    nlohmann::ordered_json settings;
    std::optional<open_file> file;
    result_counts counts;
};

// Texts separated by NUL bytes: on stdout as they arrive, or in a file that is replaced when all are complete.
class result_texts {
public:
    explicit result_texts(const std::string & path); // throws error

    void write(const std::string & text);
    void finish();

private:
    std::string path;
    std::unique_ptr<replacing_file> replaced;
    std::optional<open_file> file;
};

// Throws error if an output file is also an input file. Both are named by these arguments or by environment variables.
void refuse_overwriting(int argc, char ** argv);

} // namespace metadeploy
