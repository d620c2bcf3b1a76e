// Reads files of prompts, and files of results that are continued. Each is read, or refused with error. The first byte
// selects the form of the file.
#include "cli/output.h"
#include "cli/prompts.h"
#include "cli/results.h"
#include "cli/settings.h"
#include "errors.h"
#include "scratch_file.h"

using namespace metadeploy;

// Replaces functions that results.cpp uses. The real ones need all of llama.cpp.
namespace metadeploy {

std::vector<std::string> settings_faults(const nlohmann::ordered_json & before, const nlohmann::ordered_json & now) {
    return before == now ? std::vector<std::string>{} : std::vector<std::string>{"other settings"};
}

std::string run_id(const nlohmann::ordered_json &, const prompt_item & item) {
    return item.gain ? "with a gain" : "r";
}

void print(const std::string &) {}

} // namespace metadeploy

extern "C" int LLVMFuzzerTestOneInput(const uint8_t * data, size_t size) {
    static const fuzzing::scratch_file prompts_file("prompts");
    static const fuzzing::scratch_file results_file("results");
    if (size == 0) {
        return 0;
    }
    const bool nul_separated = data[0] % 2 != 0;
    prompts_file.write(data + 1, size - 1);
    std::vector<prompt_item> prompts;
    try {
        prompts = read_prompts(prompts_file.path, nul_separated).items;
        for (const prompt_item & item : prompts) {
            (void)dump_json(item.id);
            (void)dump_json(item.prompt);
        }
    } catch (const error &) {
        prompts = {{nullptr, "a", {}}, {nullptr, "b", {}}};
    }
    try {
        results_file.write(data + 1, size - 1); // a copy, because the reader may cut off its end
        (void)result_lines(results_file.path, prompts, {{"-n", 1}}).found();
    } catch (const error &) {
    }
    return 0;
}
