// Where the results of a file of prompts go.
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

// Results as JSON lines, on stdout or in a file that is gone on with. Each line has a "run", a digest of everything
// that it depends on, and the first one the "settings" of all; what was made otherwise is not gone on with.
class result_lines {
public:
    // path: empty for stdout. An incomplete last line of the file is cut off. Throws error where the file holds
    // anything but results of these prompts, made with these settings, where another process is writing it, or it
    // cannot be opened.
    result_lines(const std::string & path, const std::vector<prompt_item> & prompts, nlohmann::ordered_json settings);

    const result_counts & found() const { return counts; } // what the file holds already
    // what was found of the prompt with this index; in order. Throws error.
    void write(size_t index, const nlohmann::ordered_json & found);
    void finish(); // puts them on disk. Throws error.

private:
    void count(const std::string & text);

    std::string path;
    const std::vector<prompt_item> & prompts;
    nlohmann::ordered_json settings;
    std::optional<open_file> file;
    result_counts counts;
};

// Texts between NUL bytes, on stdout as they come, or in a file that is replaced when all are there.
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

// Throws error where a file that one of these arguments, or of the environment's, has the program write is also
// named as one that it reads.
void refuse_overwriting(int argc, char ** argv);

} // namespace metadeploy
