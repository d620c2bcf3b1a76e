// What a context remembers: emptied, stepped back in, and kept from one prompt to the next that begins alike.
#include "errors.h"
#include "runtime/engine.h"

#include <algorithm>
#include <new>

namespace metadeploy {

bool engine::has_state() const {
    return llama_model_is_recurrent(llm) || llama_model_is_hybrid(llm);
}

size_t engine::prefix_bytes() const {
    return ((size_t)limits.prefix_mib << 20) / seqs.size();
}

// Each token of the sequence still has the cells that it was given, and none of them is a state that has moved on.
bool engine::memory_intact(const sequence & seq) const {
    return !has_state() && llama_memory_seq_pos_min(llama_get_memory(ctx), seq.id) == 0;
}

void engine::clear_memory(sequence & seq) {
    llama_memory_t memory = llama_get_memory(ctx);
    if (seqs.size() == 1) {
        llama_memory_clear(memory, /*data =*/false); // cells are given away from the first one on, whatever was there
    } else {
        llama_memory_seq_rm(memory, seq.id, -1, -1);
    }
    seq.n_past = 0;
}

void engine::forget(sequence & seq) {
    const llama_seq_id id = seq.id;
    clear_memory(seq);
    seq = {};
    seq.id = id;
}

void engine::forget_all() {
    if (meta_wrapper) {
        // what an injection has made overflow is NaN, which shows from cells that are masked as well
        llama_memory_clear(llama_get_memory(ctx), /*data =*/true);
    }
    for (sequence & seq : seqs) {
        forget(seq);
    }
}

// The state of a memory that has one, for step_back().
void engine::keep_state(sequence & seq) {
    constexpr llama_state_seq_flags flags = LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY;
    seq.before_last.resize(llama_state_seq_get_size_ext(ctx, seq.id, flags));
    llama_state_seq_get_data_ext(ctx, seq.before_last.data(), seq.before_last.size(), seq.id, flags);
}

// Back to where the tokens from first on are not evaluated yet: by forgetting them where memory can, with the state
// that was there where it has been kept. Where neither helps memory is empty, and what is returned is whether it may
// be.
bool engine::step_back(sequence & seq, size_t first) {
    llama_memory_t memory = llama_get_memory(ctx);
    const auto n_left = (llama_pos)first;
    const std::vector<uint8_t> & state = seq.before_last;
    const auto restored = [&] {
        constexpr llama_state_seq_flags flags = LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY;
        return state.empty() ||
               llama_state_seq_set_data_ext(ctx, state.data(), state.size(), seq.id, flags) == state.size();
    };
    if (first > 0 && restored() && llama_memory_seq_rm(memory, seq.id, n_left, -1) &&
        llama_memory_seq_pos_max(memory, seq.id) == n_left - 1) {
        seq.n_past = n_left;
        return true;
    }
    clear_memory(seq);
    return first == 0;
}

// What memory holds of one sequence, for another one as well.
void engine::copy_memory(const sequence & from, sequence & to) {
    clear_memory(to);
    std::vector<uint8_t> memory(llama_state_seq_get_size_ext(ctx, from.id, 0));
    if (llama_state_seq_get_data_ext(ctx, memory.data(), memory.size(), from.id, 0) != memory.size() ||
        llama_state_seq_set_data_ext(ctx, memory.data(), memory.size(), to.id, 0) != memory.size()) {
        throw decode_error("llama.cpp failed to copy a sequence of " + std::to_string(from.n_past) + " tokens");
    }
    to.plan = {};
    to.n_past = from.n_past;
}

size_t engine::n_reusable(const kept_prompt & kept, const std::vector<llama_token> & tokens, bool whole) const {
    const auto [end, _] = std::mismatch(kept.tokens.begin(), kept.tokens.end(), tokens.begin(), tokens.end());
    auto n = (size_t)(end - kept.tokens.begin());
    whole = whole && n == kept.tokens.size() && !kept.activations.empty();
    if (n > 0 && n == tokens.size() && !whole) {
        --n; // the last one is wanted for its logits or activations
    }
    // what is little of much costs more to put back than to compute; a state is that of its last token only
    return 2 * n >= kept.tokens.size() && (!has_state() || n == kept.tokens.size()) ? n : 0;
}

// Puts into memory what the last clean pass has left of the tokens that this prompt begins with as well, and returns
// their number. It lies in the places where that pass had put it: an empty sequence gives its cells away from the first
// on in either case. Where it is all of them, the taps are as that pass left them too.
size_t engine::restore_prefix(sequence & seq, const std::vector<llama_token> & tokens, bool whole) {
    kept_prompt & kept = seq.kept;
    clear_memory(seq);
    seq.before_last.clear();
    size_t n = n_reusable(kept, tokens, whole);
    const auto restored = [&] {
        llama_memory_t memory = llama_get_memory(ctx);
        const size_t n_bytes = kept.memory.size();
        return llama_state_seq_set_data_ext(ctx, kept.memory.data(), n_bytes, seq.id, 0) == n_bytes &&
               (n == kept.tokens.size() || llama_memory_seq_rm(memory, seq.id, (llama_pos)n, -1)) &&
               llama_memory_seq_pos_max(memory, seq.id) == (llama_pos)n - 1 && (has_state() || memory_intact(seq));
    };
    if (n == 0 || !restored()) {
        clear_memory(seq);
        n = 0;
    }
    seq.n_past = (int32_t)n;
    seq.places.resize(std::min(seq.places.size(), n));
    if (has_state() && seqs.size() > 1) {
        seq.places.clear(); // states share their places with those of other sequences
    }
    if (n == tokens.size()) {
        meta_wrapper->set_activations(kept.activations, seq.id);
    } else {
        kept.tokens.clear(); // until the pass that begins now is over
    }
    return n;
}

// For the next prompt, what a clean pass over the first n_tokens tokens has left; tapped: up to the last one's
// activations. Nothing where it is more than there is room for, or where a window has left tokens behind.
void engine::keep_prefix(sequence & seq, const std::vector<llama_token> & tokens, size_t n_tokens, bool tapped) {
    const auto n_window = (size_t)llama_model_n_swa(llm);
    if (prefix_bytes() == 0 || (n_window > 0 && n_tokens > n_window)) {
        return;
    }
    kept_prompt & kept = seq.kept;
    const size_t n_bytes = llama_state_seq_get_size_ext(ctx, seq.id, 0);
    if (n_bytes > prefix_bytes()) {
        return;
    }
    try {
        kept.memory.resize(n_bytes);
    } catch (const std::bad_alloc &) {
        return; // the next prompt is computed as a whole
    }
    if (llama_state_seq_get_data_ext(ctx, kept.memory.data(), n_bytes, seq.id, 0) != n_bytes) {
        return;
    }
    kept.activations = tapped ? meta_wrapper->activations(seq.id) : std::vector<float>();
    kept.tokens.assign(tokens.begin(), tokens.begin() + (std::ptrdiff_t)n_tokens);
}

} // namespace metadeploy
