// What the nodes of a graph write to memory that outlives it: the cells of key-value caches and recurrent states.
//
// Nothing here knows of a kind of memory. A node that writes into a tensor with a buffer of its own writes to memory:
// by SET_ROWS into the rows that an index input names, by any other operation into a view, which has an address.
#pragma once

#include "ggml.h"

#include <cstdint>
#include <functional>
#include <set>
#include <vector>

namespace metadeploy {

class memory_writes {
public:
    memory_writes() = default;

    // Of all nodes that gf has now. ignore: memory that is not the model's.
    memory_writes(ggml_cgraph * gf, const std::function<bool(const ggml_tensor * memory)> & ignore);

    // false: rows are chosen by something other than an input, so cell_fingerprints() cannot locate them
    bool traceable() const { return known; }

    // Returns, for each of n_tokens tokens, a fingerprint of all rows that are written for it. Two graphs have the same
    // fingerprint for a token exactly if they write it to the same rows. Call this when the index inputs are filled.
    std::vector<uint64_t> cell_fingerprints(int64_t n_tokens) const;

    // The same for writes at an address, whatever the token: recurrent states.
    uint64_t state_fingerprint() const { return addresses; }

    // whether a node of gf takes something from memory that is written here
    bool read_by(ggml_cgraph * gf) const;

private:
    bool known = true;
    uint64_t addresses = 0;                   // fingerprints: of the writes at addresses,
    uint64_t tables = 0;                      // and of the tensors that rows are written to
    std::vector<const ggml_tensor *> indices; // inputs, I64 or I32; an equal share of the elements for each token
    std::set<const ggml_tensor *> memories;
};

// Removes all nodes from a graph that is being built, so that it computes only nodes that are added later. Its inputs
// stay as leafs, because llama.cpp fills all inputs before a graph runs, even unused ones.
void drop_nodes(ggml_cgraph * gf);

} // namespace metadeploy
