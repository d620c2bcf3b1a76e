#include "sidecar/rules.h"

#include "sidecar/layout.h"

namespace metadeploy {

std::vector<std::string> size_faults(const layout & dims) {
    struct bound {
        char symbol;
        const char * what;
        int64_t most;
    };
    static constexpr bound bounds[] = {
        {'D', "the width of the base", MAX_WIDTH},
        {'E', "the width of the encoder", MAX_WIDTH},
        {'B', "the bottleneck of the cross-attention", MAX_WIDTH},
        {'F', "the inner width of the feed-forward", MAX_INNER_WIDTH},
        {'C', "the number of cognitive tokens", MAX_COGNITIVE_TOKENS},
        {'N', "the number of target layers", MAX_LAYERS},
    };
    std::vector<std::string> faults;
    for (const auto & [symbol, what, most] : bounds) {
        if (const int64_t size = dims.size(symbol); size > most) {
            faults.push_back(
                "the tensors say that " + std::string(what) + " is " + std::to_string(size) + ", expected at most " +
                std::to_string(most));
        }
    }
    return faults;
}

std::vector<std::string> table_faults(int64_t hidden_dim, int64_t n_tokens, int64_t n_heads) {
    // checked by division: a product of three numbers from a file can exceed 64 bits
    if (hidden_dim < 1 || n_tokens < 1 || n_heads < 1 || MAX_TABLE / hidden_dim / n_tokens >= n_heads) {
        return {};
    }
    return {
        "the tables of an injection have " + std::to_string(hidden_dim) + " x " + std::to_string(n_tokens) + " x " +
        std::to_string(n_heads) + " entries (width, cognitive tokens, heads), expected at most " +
        std::to_string(MAX_TABLE)};
}

} // namespace metadeploy
