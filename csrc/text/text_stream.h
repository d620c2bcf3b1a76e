// Pieces of tokens in, text that may be shown out: whole UTF-8 characters, and nothing of a stop string.
#pragma once

#include <string>
#include <vector>

namespace metadeploy {

class text_stream {
public:
    explicit text_stream(std::vector<std::string> stop) : stop(std::move(stop)) {}

    // Adds a piece; returns what can be shown now.
    std::string push(const std::string & piece);

    // The rest, when no more pieces come.
    std::string flush();

    bool stopped() const { return found_stop; }        // a stop string was completed; it is not part of the text
    const std::string & text() const { return whole; } // all that was returned so far

private:
    std::string take(size_t n);

    const std::vector<std::string> stop;
    std::string held;
    std::string whole;
    bool found_stop = false;
};

} // namespace metadeploy
