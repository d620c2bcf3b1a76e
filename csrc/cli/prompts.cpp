#include "cli/prompts.h"

#include "errors.h"

#include <filesystem>
#include <fstream>
#include <iterator>

namespace metadeploy {

namespace {

using json = nlohmann::ordered_json;

std::string read_file(const std::string & path) {
    std::ifstream file(std::filesystem::u8path(path), std::ios::binary);
    if (!file) {
        throw error("prompts file '" + path + "' cannot be opened");
    }
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// a text as it comes back from a line of results, where it may have had to be mended
std::string as_result(const std::string & text) {
    return json::parse(dump_json(text)).get<std::string>();
}

} // namespace

result_counts count_results(const std::string & path, const std::vector<prompt_item> & prompts) {
    const std::filesystem::path file = std::filesystem::u8path(path);
    if (!std::filesystem::is_regular_file(file)) {
        return {}; // a new file, or a device, which may be read without end
    }
    const std::string text = read_file(path);
    result_counts count;
    size_t complete = 0;
    for (size_t end; (end = text.find('\n', complete)) != std::string::npos; complete = end + 1) {
        const json result = json::parse(text.substr(complete, end - complete), nullptr, /*allow_exceptions =*/false);
        if (count.n >= prompts.size() || !result.is_object() ||
            result.value("prompt", json()) != as_result(prompts[count.n].prompt)) {
            const std::string number = std::to_string(count.n + 1);
            throw error(
                "output file '" + path + "', line " + number + " is not the result of prompt " + number +
                " (results of other prompts? move the file away or give another --output)");
        }
        ++count.n;
        count.n_failed += result.contains("error");
        count.n_abstained += result.value("abstained", json()) == true;
    }
    if (complete != text.size()) {
        std::filesystem::resize_file(file, complete);
    }
    return count;
}

std::string dump_json(const json & value, int indent) {
    return value.dump(indent, ' ', /*ensure_ascii =*/false, json::error_handler_t::replace);
}

} // namespace metadeploy
