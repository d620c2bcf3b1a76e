#include "cli/constraints.h"

#include "cli/args.h"
#include "parse_json.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>

namespace metadeploy {

namespace {

constexpr size_t MAX_BYTES = 128 << 10; // llama.cpp's own grammars have at most 4 KiB
constexpr size_t MAX_PARENTHESES = 100; // open at a time, in a grammar or in a pattern of a schema

std::string read_file(const std::string & flag, const std::string & path) {
    std::ifstream file(std::filesystem::u8path(path), std::ios::binary);
    if (!file) {
        throw usage_error(flag + ": file '" + path + "' cannot be opened");
    }
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// The most parentheses open at a time. Parentheses in quotes count too: this overestimates, but it is simple.
size_t nesting(const std::string & text) {
    size_t depth = 0;
    size_t deepest = 0;
    for (const char c : text) {
        if (c == '(') {
            deepest = std::max(deepest, ++depth);
        } else if (c == ')' && depth > 0) {
            --depth;
        }
    }
    return deepest;
}

} // namespace

void check_constraint(const std::string & flag, const std::string & value) {
    const bool is_schema = flag == "-j" || flag == "--json-schema";
    const bool is_schema_file = flag == "-jf" || flag == "--json-schema-file";
    const bool is_grammar_file = flag == "--grammar-file";
    const bool is_variables = flag == "--chat-template-kwargs";
    if (!is_schema && !is_schema_file && !is_grammar_file && !is_variables && flag != "--grammar") {
        return;
    }
    const std::string text = is_schema_file || is_grammar_file ? read_file(flag, value) : value;
    if (text.size() > MAX_BYTES) {
        throw usage_error(
            flag + " has " + std::to_string(text.size()) + " bytes, expected at most " + std::to_string(MAX_BYTES));
    }
    if (nesting(text) > MAX_PARENTHESES) {
        throw usage_error(
            flag + " has parentheses nested too deeply, expected at most " + std::to_string(MAX_PARENTHESES));
    }
    std::string fault;
    if ((is_schema || is_schema_file || is_variables) && !parse_json(text, fault)) {
        throw usage_error(flag + " is not JSON: " + fault);
    }
}

} // namespace metadeploy
