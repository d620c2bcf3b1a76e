// read_sidecars PATH...: reads every file (and the files of every folder), and builds a wrapper and encodes with those
// that load. Prints a line for each: the path, a tab, "load" or "error". Feed it what a mutator makes, under
// sanitizers: whatever else than sidecar_error comes out ends the process.
#include "errors.h"
#include "log.h"
#include "model/wrapper.h"

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <vector>

using namespace metadeploy;

namespace {

// weights that are finite but huge make infinities, which a ggml with assertions aborts on (release builds have none)
bool is_moderate(const sidecar & source) {
    for (const auto & [name, tensor] : source.tensors) {
        for (const float value : tensor.data) {
            if (std::abs(value) > 1e6f) {
                return false;
            }
        }
    }
    return true;
}

bool load_and_encode(const std::string & path) {
    try {
        const sidecar source = read_sidecar(path);
        wrapper meta(source, [](int) { return ggml_backend_cpu_buffer_type(); }, 1);
        meta.set_activations(
            std::vector<float>(source.config.target_layers.size() * (size_t)source.config.n_embd, 1.0f));
        if (is_moderate(source)) {
            meta.encode();
        }
        return true;
    } catch (const sidecar_error &) {
        return false;
    }
}

} // namespace

int main(int argc, char ** argv) {
    set_log_sink(nullptr, GGML_LOG_LEVEL_ERROR);
    std::vector<std::filesystem::path> files;
    for (int i = 1; i < argc; ++i) {
        if (std::filesystem::is_directory(argv[i])) {
            for (const auto & entry : std::filesystem::directory_iterator(argv[i])) {
                files.push_back(entry.path());
            }
        } else {
            files.emplace_back(argv[i]);
        }
    }
    for (const std::filesystem::path & file : files) {
        // printed first: if the process dies, it is the last line
        std::printf("%s\t", file.u8string().c_str());
        std::fflush(stdout);
        std::puts(load_and_encode(file.u8string()) ? "load" : "error");
    }
    return files.empty() ? 2 : 0;
}
