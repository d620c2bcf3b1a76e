// A file for readers that take a path, in memory if /dev/shm exists.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <unistd.h>

namespace metadeploy::fuzzing {

class scratch_file {
public:
    explicit scratch_file(const std::string & name)
        : path(
              (std::filesystem::exists("/dev/shm") ? std::string("/dev/shm") : std::string("/tmp")) +
              "/metadeploy-fuzz-" + std::to_string(getpid()) + "-" + name) {}
    ~scratch_file() { std::remove(path.c_str()); }
    scratch_file(const scratch_file &) = delete;
    scratch_file & operator=(const scratch_file &) = delete;

    const std::string & write(const uint8_t * data, size_t size) const {
        std::FILE * file = std::fopen(path.c_str(), "wb");
        if (!file || std::fwrite(data, 1, size, file) != size || std::fclose(file) != 0) {
            std::perror(path.c_str());
            std::exit(2);
        }
        return path;
    }

    const std::string path;
};

} // namespace metadeploy::fuzzing
