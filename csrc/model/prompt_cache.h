// Stores the memory that the clean pass over a prompt left, so that the next prompt with the same beginning can restore
// it. The memory depends on the tokens alone.
#pragma once

#include "model/sequence.h"
#include "model/sequence_memory.h"

#include "llama.h"

#include <cstddef>
#include <cstdint>
#include <vector>

namespace metadeploy {

class prompt_cache {
public:
    // One entry for each of n_seq sequences, of max_bytes at most; 0 turns the cache off. ctx and memory must outlive
    // this object.
    prompt_cache(llama_context * ctx, sequence_memory & memory, size_t n_seq, size_t max_bytes)
        : ctx(ctx), memory(memory), max_bytes(max_bytes), entries(n_seq) {}

    bool enabled() const { return max_bytes > 0; }
    size_t n_tokens(llama_seq_id id) const { return entry_of(id).tokens.size(); }

    // Returns how many tokens of a prompt can be restored. whole: all of them may be, if the activations of the last
    // one are stored too.
    size_t n_reusable(llama_seq_id id, const std::vector<llama_token> & tokens, bool whole) const;

    // Restores the memory of a sequence after the prompt's first tokens, as far as the entry has it, and returns
    // their number. If these are not all tokens, the entry is empty until save(). Throws decode_error.
    size_t restore(sequence & seq, const std::vector<llama_token> & tokens, bool whole);
    // of the last token of the stored prompt, as engine::prompt_rows() returns them; empty if they were not tapped
    const std::vector<float> & activations(llama_seq_id id) const { return entry_of(id).activations; }

    // Returns where later prompts are likely to depart from this one, in ascending order. A memory with a state needs a
    // checkpoint there; any other one needs none. Call it before restore().
    std::vector<size_t> checkpoints_for(llama_seq_id id, const std::vector<llama_token> & tokens) const;
    // Stores the state after the tokens that the sequence holds now. If there is not enough room, the earliest
    // checkpoints are dropped.
    void add_checkpoint(const sequence & seq);

    // Stores the memory of a sequence after a clean pass over the first n_tokens tokens. Stores nothing if there is not
    // enough room, or if a sliding window no longer holds the first tokens.
    void save(
        const sequence & seq, const std::vector<llama_token> & tokens, size_t n_tokens, std::vector<float> activations);

    void drop(llama_seq_id id) { entry_of(id) = {}; }

private:
    // the state after a prompt's first tokens
    struct checkpoint {
        size_t n_tokens;
        std::vector<uint8_t> bytes;
    };

    struct prompt_cache_entry {
        std::vector<llama_token> tokens;
        std::vector<uint8_t> memory;         // keys, values and states after them
        std::vector<float> activations;      // of the last token; empty if they were not tapped
        std::vector<checkpoint> checkpoints; // possible starts of prompts that differ later, in ascending order
    };

    prompt_cache_entry & entry_of(llama_seq_id id) { return entries[(size_t)id]; }
    const prompt_cache_entry & entry_of(llama_seq_id id) const { return entries[(size_t)id]; }
    bool load(const sequence & seq, const prompt_cache_entry & entry, size_t n);
    void make_room(std::vector<checkpoint> & checkpoints, size_t n_bytes) const;

    llama_context * const ctx;
    sequence_memory & memory;
    const size_t max_bytes;                  // of one entry
    std::vector<prompt_cache_entry> entries; // by sequence id
};

} // namespace metadeploy
