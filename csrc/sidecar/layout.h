// Which tensors a wrapper of a given configuration consists of; twin of metadeploy/sidecar/layout.py.
#pragma once

#include "sidecar/sidecar.h"

#include <map>
#include <string>
#include <vector>

namespace metadeploy {

// Finds out, from the shapes alone, what the tensors say about the configuration (they win over the metadata), and
// checks that every tensor the encoder and the cross-attention need is there with the right shape.
// shapes: PyTorch order, by name. Returns all faults, none when the wrapper is sound; config is completed in place.
std::vector<std::string> check_layout(
    const std::map<std::string, std::vector<int64_t>> & shapes, wrapper_config & config);

} // namespace metadeploy
