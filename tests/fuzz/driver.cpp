// Replaces libFuzzer for compilers other than clang: runs a harness on each input of a corpus, then on mutations of
// them.
//
//     fuzz-NAME [--seconds N] [--seed N] FILE-OR-FOLDER...
//
// Without --seconds, nothing is mutated. Mutations are random: unlike libFuzzer, this driver does not know what the
// harness covers. Before each run, the input is stored as fuzz-NAME.input in the working directory, for a crash to
// leave it there.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t * data, size_t size);
extern "C" __attribute__((weak)) int LLVMFuzzerInitialize(int * argc, char *** argv);
extern "C" __attribute__((weak)) size_t
LLVMFuzzerCustomMutator(uint8_t * data, size_t size, size_t max_size, unsigned int seed);

extern "C" size_t LLVMFuzzerMutate(uint8_t * data, size_t size, size_t max_size);

namespace {

using bytes = std::vector<uint8_t>;

std::mt19937 rng;

size_t random_below(size_t n) {
    return std::uniform_int_distribution<size_t>(0, n - 1)(rng);
}

bytes read_file(const std::filesystem::path & path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

std::vector<bytes> read_corpus(const std::vector<std::string> & names) {
    std::vector<std::filesystem::path> files;
    for (const std::string & name : names) {
        if (std::filesystem::is_directory(name)) {
            for (const auto & entry : std::filesystem::directory_iterator(name)) {
                files.push_back(entry.path());
            }
        } else {
            files.emplace_back(name);
        }
    }
    std::sort(files.begin(), files.end());
    std::vector<bytes> corpus;
    std::transform(files.begin(), files.end(), std::back_inserter(corpus), read_file);
    return corpus;
}

void run(const bytes & input, const std::string & copy) {
    std::ofstream(copy, std::ios::binary).write(reinterpret_cast<const char *>(input.data()), (long)input.size());
    LLVMFuzzerTestOneInput(input.data(), input.size());
}

bytes mutated(bytes input) {
    const size_t max_size = 2 * input.size() + 64;
    const size_t size = input.size();
    input.resize(max_size);
    input.resize(
        LLVMFuzzerCustomMutator ? LLVMFuzzerCustomMutator(input.data(), size, max_size, rng())
                                : LLVMFuzzerMutate(input.data(), size, max_size));
    return input;
}

} // namespace

// Changes, inserts, removes or repeats some bytes. The custom mutators of the harnesses call it as well.
extern "C" size_t LLVMFuzzerMutate(uint8_t * data, size_t size, size_t max_size) {
    static const char * const tokens[] = {"{",  "}",  "[",  "]", "\"", "\\",    "\n",
                                          "{%", "%}", "{{", "0", "-",  "1e999", "null"};
    bytes out(data, data + size);
    for (size_t n = 1 + random_below(4); n > 0; --n) {
        const size_t at = random_below(out.size() + 1);
        const size_t end = std::min(out.size(), at + 1 + random_below(16));
        switch (random_below(5)) {
        case 0:
            if (at < out.size()) {
                out[at] ^= (uint8_t)(1u << random_below(8));
            }
            break;
        case 1:
            if (at < out.size()) {
                out[at] = (uint8_t)random_below(256);
            }
            break;
        case 2:
            out.erase(out.begin() + (long)at, out.begin() + (long)end);
            break;
        case 3: {
            const bytes piece(out.begin() + (long)at, out.begin() + (long)end);
            out.insert(out.begin() + (long)random_below(out.size() + 1), piece.begin(), piece.end());
            break;
        }
        default: {
            const char * token = tokens[random_below(std::size(tokens))];
            out.insert(out.begin() + (long)at, token, token + std::strlen(token));
        }
        }
    }
    out.resize(std::min(out.size(), max_size));
    std::copy(out.begin(), out.end(), data);
    return out.size();
}

int main(int argc, char ** argv) {
    if (LLVMFuzzerInitialize) {
        LLVMFuzzerInitialize(&argc, &argv);
    }
    double seconds = 0;
    unsigned int seed = 1;
    std::vector<std::string> names;
    for (int i = 1; i < argc; ++i) {
        if (std::strcmp(argv[i], "--seconds") == 0 && i + 1 < argc) {
            seconds = std::atof(argv[++i]);
        } else if (std::strcmp(argv[i], "--seed") == 0 && i + 1 < argc) {
            seed = (unsigned int)std::atol(argv[++i]);
        } else {
            names.emplace_back(argv[i]);
        }
    }
    const std::vector<bytes> corpus = read_corpus(names);
    if (corpus.empty()) {
        std::fprintf(stderr, "no input\n");
        return 1;
    }
    const std::string copy = std::filesystem::path(argv[0]).filename().string() + ".input";
    for (const bytes & input : corpus) {
        run(input, copy);
    }
    rng.seed(seed);
    size_t n_mutated = 0;
    const auto start = std::chrono::steady_clock::now();
    while (std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() < seconds) {
        bytes input = corpus[random_below(corpus.size())];
        for (size_t n = 1 + random_below(3); n > 0; --n) {
            input = mutated(std::move(input));
        }
        run(input, copy);
        ++n_mutated;
    }
    std::filesystem::remove(copy);
    std::printf("%zu inputs, %zu mutations\n", corpus.size(), n_mutated);
    return 0;
}
