// Typed access to a sidecar's metadata that turns a wrong type into a fault instead of an assertion.
#pragma once

#include "gguf.h"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace metadeploy {

class metadata {
public:
    // faults: where those of the values asked for go
    metadata(const gguf_context * gguf, std::vector<std::string> & faults) : gguf(gguf), faults(faults) {}

    std::string prefix; // goes before each key below

    bool has(const char * key) const { return gguf_find_key(gguf, name(key).c_str()) >= 0; }

    std::string name(const char * key) const { return prefix + key; }

    // Nothing if the key is absent; if the value is of another kind, nothing and a fault.
    std::optional<std::string> text(const char * key) const;
    std::optional<float> number(const char * key) const;
    std::optional<std::vector<float>> numbers(const char * key) const;
    std::optional<int64_t> integer(const char * key) const;             // 0 to 2147483647
    std::optional<std::vector<int32_t>> tokens(const char * key) const; // 0 to 2147483647 each
    std::optional<std::vector<int32_t>> layers(const char * key) const; // each once, below MAX_LAYERS

    // finds keys and texts that are not UTF-8, which Python could not show, or empty but required
    void check_texts() const;

private:
    std::optional<std::vector<int64_t>> integers(const char * key) const; // those too large are negative

    const gguf_context * gguf;
    std::vector<std::string> & faults;
};

bool is_utf8(const std::string & text);

} // namespace metadeploy
