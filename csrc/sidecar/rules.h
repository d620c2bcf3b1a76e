// Bounds for a wrapper and its file. Twin of metadeploy/sidecar/rules.py, which explains them. A test compares the two,
// and both with docs/sidecar-format.md.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace metadeploy {

struct layout;
struct wrapper_config;

// bounds of the file
inline constexpr int64_t MAX_HEAD_BYTES = 64 << 20; // everything before the tensors' data
inline constexpr int64_t MAX_KEYS = 4096;
inline constexpr int64_t MAX_TENSORS = 16384;
inline constexpr int64_t MAX_KEY_BYTES = 65535;
inline constexpr int64_t MAX_TEXT_BYTES = 1 << 20;
inline constexpr int64_t MAX_ARRAY = 1 << 20;
inline constexpr int64_t MAX_ALIGNMENT = 1 << 20;

// bounds of the wrapper
inline constexpr int64_t MAX_INT = INT32_MAX;
inline constexpr int64_t MAX_LAYERS = 1000;
inline constexpr int64_t MAX_WIDTH = 65536;
inline constexpr int64_t MAX_INNER_WIDTH = 262144;
inline constexpr int64_t MAX_COGNITIVE_TOKENS = 1024;
inline constexpr int64_t MAX_TABLE = 1 << 28; // hidden_dim * cognitive tokens * heads
inline constexpr int64_t MAX_REFUSAL_TOKENS = 1024;
inline constexpr float MAX_REFUSAL_BIAS = 100.0f;

// bounds of the verdict head
inline constexpr int64_t MAX_VERDICT_LAYERS = 16;
inline constexpr int64_t MAX_VERDICT_HIDDEN = 4096;
inline constexpr float MAX_CALIBRATION = 1000.0f;
inline constexpr int64_t MAX_GUARANTEES = 100;

// Lists the sizes that exceed these bounds. Nothing may be enumerated or allocated by such a size.
std::vector<std::string> size_faults(const layout & dims);

// Lists a fault if the tables of an injection are too large. Empty if a size is unknown.
std::vector<std::string> table_faults(int64_t hidden_dim, int64_t n_tokens, int64_t n_heads);

} // namespace metadeploy
