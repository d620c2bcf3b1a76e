// The verdict head in a sidecar: its keys, its tensors and its inputs. metadeploy/sidecar/verdict.py is the Python side
// of the same, docs/sidecar-format.md specifies both.
#pragma once

#include "sidecar/layout.h"
#include "sidecar/metadata.h"
#include "sidecar/sidecar.h"

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace metadeploy {

// the newest verdict head that this reader understands
inline constexpr int64_t VERDICT_VERSION = 1;

// Figures of an answer's tokens, in the order in which a head reads them. Log-probabilities and entropies are natural
// and of the model's own distribution, before temperature and other sampling. Margin: the log-probability of the most
// likely token minus that of the second.
inline constexpr std::array<const char *, 11> FIGURE_NAMES = {
    "log_n_tokens", "logprob_sum",   "logprob_mean", "logprob_min", "logprob_first", "entropy_mean",
    "entropy_max",  "entropy_first", "margin_mean",  "margin_min",  "margin_first",
};
using figure_array = std::array<float, FIGURE_NAMES.size()>;

// A head reads n_embd values of each prompt layer, then of each answer layer, then the figures.
int64_t n_verdict_inputs(const verdict_head & head);

// The head's settings and sizes, without its weights; nothing if the file has no head. config: of the wrapper, for the
// width and the number of blocks of the base.
std::optional<verdict_head> read_verdict(
    const metadata & meta,
    const tensor_shapes & shapes,
    const wrapper_config & config,
    std::vector<std::string> & faults);

// Every tensor of such a head.
tensor_shapes verdict_tensors(const verdict_head & head);

// Moves the weights from the sidecar's tensors, which include all of verdict_tensors(), to its verdict head.
void take_verdict_weights(sidecar & source);

} // namespace metadeploy
