// write_sidecars FOLDER: one small valid sidecar of each encoder, for a mutator to start from.
#include "wrappers.h"

#include <filesystem>
#include <fstream>
#include <iostream>

using namespace metadeploy;

int main(int argc, char ** argv) {
    if (argc != 2) {
        std::cerr << "usage: write_sidecars FOLDER\n";
        return 2;
    }
    for (const auto & [encoder, name] : ENCODER_NAMES) {
        const std::filesystem::path path = std::filesystem::u8path(argv[1]) / (std::string(name) + ".gguf");
        std::ofstream file(path, std::ios::binary);
        file << testing::to_gguf(testing::random_wrapper(encoder)).build();
        if (!file.flush()) {
            std::cerr << "cannot write " << path << "\n";
            return 1;
        }
    }
    return 0;
}
