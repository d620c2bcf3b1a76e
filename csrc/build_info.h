// Describes this build, for `metadeploy doctor` and `llama-meta-generate --version`.
#pragma once

#include <map>
#include <string>
#include <vector>

namespace metadeploy {

struct build_info {
    std::string id;      // the same in the extension and the program of one build, different in any other build
    std::string version; // of metadeploy
    std::string compiler;
    std::string build_type;
    std::string system;                  // the target system
    std::string flags;                   // the user's compiler flags
    std::string llama_cpp;               // the source that was built
    std::string ggml;                    // version
    std::vector<std::string> patches;    // applied to llama.cpp, in order
    std::map<std::string, bool> options; // of ggml's build: GGML_NATIVE, GGML_CUDA ...
    // per backend, the features that ggml was compiled with: AVX2 = 1 ...
    std::map<std::string, std::map<std::string, std::string>> features;
};

build_info get_build_info();

// the same as several lines of text
std::string describe_build();

} // namespace metadeploy
