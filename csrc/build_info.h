// How this build was made: what `metadeploy doctor` and `llama-meta-generate --version` print.
#pragma once

#include <map>
#include <string>
#include <vector>

namespace metadeploy {

struct build_info {
    std::string id;      // the same in the extension and the program of one build, another one in any other build
    std::string version; // of metadeploy
    std::string compiler;
    std::string build_type;
    std::string system;                  // that it was built for
    std::string flags;                   // for the compiler, as the user gave them
    std::string llama_cpp;               // where its source came from
    std::string ggml;                    // version
    std::vector<std::string> patches;    // applied to it, in order
    std::map<std::string, bool> options; // of ggml's build: GGML_NATIVE, GGML_CUDA ...
    // by backend, what ggml reports that its code was compiled with: AVX2 = 1 ...
    std::map<std::string, std::map<std::string, std::string>> features;
};

build_info get_build_info();

// the same for people, some lines of text
std::string describe_build();

} // namespace metadeploy
