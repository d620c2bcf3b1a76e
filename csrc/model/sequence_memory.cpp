#include "model/sequence_memory.h"

#include "errors.h"

#include <string>
#include <utility>

namespace metadeploy {

bool sequence_memory::has_state() const {
    const llama_model * model = llama_get_model(ctx);
    return llama_model_is_recurrent(model) || llama_model_is_hybrid(model);
}

bool sequence_memory::cells_valid(const sequence & seq) const {
    return !has_state() && llama_memory_seq_pos_min(llama_get_memory(ctx), seq.id) == 0;
}

void sequence_memory::clear(sequence & seq) {
    if (seq.unproven) {
        purge(seq);
        return;
    }
    llama_memory_t memory = llama_get_memory(ctx);
    if (seqs.size() == 1) {
        llama_memory_clear(memory, /*data =*/false); // cells are given out from the first one on, whatever was there
    } else {
        llama_memory_seq_rm(memory, seq.id, -1, -1);
    }
    seq.n_past = 0;
}

void sequence_memory::clear_data() {
    llama_memory_clear(llama_get_memory(ctx), /*data =*/true);
}

// Clears a sequence and its data. NaN and infinity in free cells reach the results although their weight is 0, and a
// recurrent state is reset by a multiplication with 0. llama.cpp can only clear the data of all sequences at once, so
// this function saves and restores the memory of the other sequences. What pass 1 stored for a pass 2 lies in free
// cells and is lost.
void sequence_memory::purge(sequence & seq) {
    std::vector<std::pair<sequence *, std::vector<uint8_t>>> others;
    for (sequence & other : seqs) {
        other.cell_fingerprints.clear();
        other.cells_valid = false;
        if (&other != &seq && other.n_past > 0) {
            others.emplace_back(&other, checked_save(other));
        }
    }
    clear_data();
    seq.n_past = 0;
    seq.unproven = false;
    for (const auto & [other, bytes] : others) {
        checked_load(*other, bytes);
    }
}

bool sequence_memory::holds(const sequence & seq, size_t n_tokens) const {
    return llama_memory_seq_pos_max(llama_get_memory(ctx), seq.id) == (llama_pos)n_tokens - 1;
}

bool sequence_memory::truncate(const sequence & seq, size_t n_tokens) {
    return llama_memory_seq_rm(llama_get_memory(ctx), seq.id, (llama_pos)n_tokens, -1) && holds(seq, n_tokens);
}

bool sequence_memory::rewind(sequence & seq, size_t first) {
    const bool restored =
        first > 0 && (seq.checkpoint_before_last.empty() || load_state(seq, seq.checkpoint_before_last));
    if (restored && truncate(seq, first)) {
        seq.n_past = (int32_t)first;
        return true;
    }
    clear(seq);
    return first == 0;
}

void sequence_memory::copy(const sequence & from, sequence & to) {
    clear(to);
    to.n_past = from.n_past;
    checked_load(to, checked_save(from));
    to.plan = {};
}

size_t sequence_memory::n_bytes(const sequence & seq) const {
    return llama_state_seq_get_size_ext(ctx, seq.id, 0);
}

bool sequence_memory::save(const sequence & seq, std::vector<uint8_t> & bytes) const {
    return llama_state_seq_get_data_ext(ctx, bytes.data(), bytes.size(), seq.id, 0) == bytes.size();
}

bool sequence_memory::load(const sequence & seq, const std::vector<uint8_t> & bytes) {
    return llama_state_seq_set_data_ext(ctx, bytes.data(), bytes.size(), seq.id, 0) == bytes.size();
}

std::vector<uint8_t> sequence_memory::save_state(const sequence & seq) const {
    constexpr llama_state_seq_flags flags = LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY;
    std::vector<uint8_t> bytes(llama_state_seq_get_size_ext(ctx, seq.id, flags));
    llama_state_seq_get_data_ext(ctx, bytes.data(), bytes.size(), seq.id, flags);
    return bytes;
}

bool sequence_memory::load_state(const sequence & seq, const std::vector<uint8_t> & bytes) {
    constexpr llama_state_seq_flags flags = LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY;
    return llama_state_seq_set_data_ext(ctx, bytes.data(), bytes.size(), seq.id, flags) == bytes.size();
}

std::vector<uint8_t> sequence_memory::checked_save(const sequence & seq) const {
    std::vector<uint8_t> bytes(n_bytes(seq));
    if (!save(seq, bytes)) {
        throw decode_error("llama.cpp failed to copy a sequence of " + std::to_string(seq.n_past) + " tokens");
    }
    return bytes;
}

void sequence_memory::checked_load(const sequence & seq, const std::vector<uint8_t> & bytes) {
    if (!load(seq, bytes)) {
        throw decode_error("llama.cpp failed to restore a sequence of " + std::to_string(seq.n_past) + " tokens");
    }
}

} // namespace metadeploy
