// llama.cpp's memory of the sequences of a context: keys, values and, in recurrent and hybrid models, states.
#pragma once

#include "model/sequence.h"

#include "llama.h"

#include <cstddef>
#include <cstdint>
#include <vector>

namespace metadeploy {

class sequence_memory {
public:
    // seqs: all sequences of the context, by id. Both must outlive this object.
    sequence_memory(llama_context * ctx, std::vector<sequence> & seqs) : ctx(ctx), seqs(seqs) {}

    // Whether the memory has a state. A state belongs to the last token, so such a memory cannot be truncated.
    bool has_state() const;
    // Whether each token of the sequence still has its own cell. Always false if the memory has a state.
    bool cells_valid(const sequence & seq) const;

    void clear(sequence & seq); // if the sequence is unproven, also its data
    void clear_data();          // cells and data of all sequences

    // Whether the memory holds the positions up to n_tokens - 1 of the sequence, and none beyond.
    bool holds(const sequence & seq, size_t n_tokens) const;
    // Drops all tokens from position n_tokens on. Returns whether exactly n_tokens tokens are left.
    bool truncate(const sequence & seq, size_t n_tokens);
    // Rewinds to position `first` by truncating the memory or by restoring checkpoint_before_last. If neither works,
    // clears the memory; returns false unless first == 0.
    bool rewind(sequence & seq, size_t first);

    // Copies everything that the memory holds of one sequence to another one. Throws decode_error.
    void copy(const sequence & from, sequence & to);

    // Everything that the memory holds of one sequence, as bytes.
    size_t n_bytes(const sequence & seq) const;
    bool save(const sequence & seq, std::vector<uint8_t> & bytes) const; // bytes: n_bytes(seq) of them
    bool load(const sequence & seq, const std::vector<uint8_t> & bytes);

    // The state alone, without keys and values.
    std::vector<uint8_t> save_state(const sequence & seq) const;
    bool load_state(const sequence & seq, const std::vector<uint8_t> & bytes);

private:
    void purge(sequence & seq);
    std::vector<uint8_t> checked_save(const sequence & seq) const;
    void checked_load(const sequence & seq, const std::vector<uint8_t> & bytes);

    llama_context * const ctx;
    std::vector<sequence> & seqs;
};

} // namespace metadeploy
