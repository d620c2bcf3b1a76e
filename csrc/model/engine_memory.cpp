// What a context remembers: emptied, stepped back in, and kept from one prompt to the next that begins alike.
#include "errors.h"
#include "model/engine.h"

#include <algorithm>
#include <new>

namespace metadeploy {

namespace {

// All that has been kept of a prompt is put back at once, even if only its beginning is wanted. A token's share of that
// is copied in far less than a hundredth of the time that computing a token takes.
constexpr size_t WORTH_PUTTING_BACK = 32;

size_t n_common(const kept_prompt & kept, const std::vector<llama_token> & tokens) {
    const auto [end, _] = std::mismatch(kept.tokens.begin(), kept.tokens.end(), tokens.begin(), tokens.end());
    return (size_t)(end - kept.tokens.begin());
}

size_t bytes_of(const std::vector<kept_state> & marks) {
    size_t n_bytes = 0;
    for (const kept_state & mark : marks) {
        n_bytes += mark.bytes.size();
    }
    return n_bytes;
}

} // namespace

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
    if (seq.unproven) {
        purge(seq);
        return;
    }
    llama_memory_t memory = llama_get_memory(ctx);
    if (seqs.size() == 1) {
        llama_memory_clear(memory, /*data =*/false); // cells are given away from the first one on, whatever was there
    } else {
        llama_memory_seq_rm(memory, seq.id, -1, -1);
    }
    seq.n_past = 0;
}

// Clears a sequence and its data. NaN and infinity in free cells reach the results although their weight is 0, and a
// recurrent state is reset by a multiplication with 0. llama.cpp can only clear the data of all sequences at once, so
// this function saves and restores the memory of the other sequences. What pass 1 has kept for a pass 2 lies in free
// cells and is lost.
void engine::purge(sequence & seq) {
    std::vector<std::pair<sequence *, std::vector<uint8_t>>> others;
    for (sequence & other : seqs) {
        other.places.clear();
        other.intact = false;
        if (&other != &seq && other.n_past > 0) {
            others.emplace_back(&other, memory_of(other));
        }
    }
    llama_memory_clear(llama_get_memory(ctx), /*data =*/true);
    seq.n_past = 0;
    seq.unproven = false;
    for (const auto & [other, memory] : others) {
        set_memory(*other, memory);
    }
}

void engine::forget(sequence & seq) {
    const llama_seq_id id = seq.id;
    clear_memory(seq);
    seq = {};
    seq.id = id;
}

void engine::forget_all() {
    const auto is_unproven = [](const sequence & seq) { return seq.unproven; };
    if (meta_wrapper || std::any_of(seqs.begin(), seqs.end(), is_unproven)) {
        llama_memory_clear(llama_get_memory(ctx), /*data =*/true);
    }
    for (sequence & seq : seqs) {
        seq.unproven = false;
        forget(seq);
    }
}

// Returns everything in llama.cpp's memory that belongs to a sequence.
std::vector<uint8_t> engine::memory_of(const sequence & seq) const {
    std::vector<uint8_t> bytes(llama_state_seq_get_size_ext(ctx, seq.id, 0));
    if (llama_state_seq_get_data_ext(ctx, bytes.data(), bytes.size(), seq.id, 0) != bytes.size()) {
        throw decode_error("llama.cpp failed to copy a sequence of " + std::to_string(seq.n_past) + " tokens");
    }
    return bytes;
}

void engine::set_memory(sequence & seq, const std::vector<uint8_t> & bytes) {
    if (llama_state_seq_set_data_ext(ctx, bytes.data(), bytes.size(), seq.id, 0) != bytes.size()) {
        throw decode_error("llama.cpp failed to restore a sequence of " + std::to_string(seq.n_past) + " tokens");
    }
}

// What a memory that cannot step back has of a sequence beside keys and values.
std::vector<uint8_t> engine::state_of(const sequence & seq) const {
    constexpr llama_state_seq_flags flags = LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY;
    std::vector<uint8_t> bytes(llama_state_seq_get_size_ext(ctx, seq.id, flags));
    llama_state_seq_get_data_ext(ctx, bytes.data(), bytes.size(), seq.id, flags);
    return bytes;
}

bool engine::set_state(const sequence & seq, const std::vector<uint8_t> & bytes) {
    constexpr llama_state_seq_flags flags = LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY;
    return llama_state_seq_set_data_ext(ctx, bytes.data(), bytes.size(), seq.id, flags) == bytes.size();
}

// Back to where the tokens from first on are not evaluated yet: by forgetting them where memory can, with the state
// that was there where it has been kept. Where neither helps memory is empty, and what is returned is whether it may
// be.
bool engine::step_back(sequence & seq, size_t first) {
    llama_memory_t memory = llama_get_memory(ctx);
    const auto n_left = (llama_pos)first;
    const bool restored = first > 0 && (seq.before_last.empty() || set_state(seq, seq.before_last));
    if (restored && llama_memory_seq_rm(memory, seq.id, n_left, -1) &&
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
    to.n_past = from.n_past;
    set_memory(to, memory_of(from));
    to.plan = {};
}

// A state is that of its last token only, so where there is one, those that have been kept say where one can begin.
size_t engine::n_reusable(const kept_prompt & kept, const std::vector<llama_token> & tokens, bool whole) const {
    size_t n = n_common(kept, tokens);
    whole = whole && n == kept.tokens.size() && !kept.activations.empty();
    if (n > 0 && n == tokens.size() && !whole) {
        --n; // the last one is wanted for its logits or activations
    }
    if (has_state() && n < kept.tokens.size()) {
        const auto beyond = [](size_t n_tokens, const kept_state & mark) { return n_tokens < mark.n_tokens; };
        const auto after = std::upper_bound(kept.marks.begin(), kept.marks.end(), n, beyond);
        n = after == kept.marks.begin() ? 0 : std::prev(after)->n_tokens;
    }
    return n * WORTH_PUTTING_BACK >= kept.tokens.size() ? n : 0;
}

// Where the prompts to come may part from this one, so that a memory that cannot step back should keep its state there:
// where this one parts from the last, and at the ends of the last two turns of a chat. What follows those is often put
// otherwise when the chat goes on: an empty thought is left out, a suffix goes to the newest question.
std::vector<size_t> engine::marks_for(const kept_prompt & kept, const std::vector<llama_token> & tokens) const {
    constexpr int MOST_TURNS = 2;
    std::vector<size_t> marks;
    if (!has_state() || prefix_bytes() == 0) {
        return marks;
    }
    int n_turns = 0;
    for (size_t n = tokens.size() - 1; n > 0 && n_turns < MOST_TURNS; --n) {
        if (llama_vocab_is_eog(vocab(), tokens[n - 1])) {
            marks.push_back(n);
            ++n_turns;
        }
    }
    const size_t n_alike = n_common(kept, tokens);
    if (n_alike < std::min(kept.tokens.size(), tokens.size()) && n_alike * WORTH_PUTTING_BACK >= tokens.size()) {
        marks.push_back(n_alike);
    }
    std::sort(marks.begin(), marks.end());
    marks.erase(std::unique(marks.begin(), marks.end()), marks.end());
    return marks;
}

void engine::keep_mark(sequence & seq) {
    std::vector<kept_state> & marks = seq.kept.marks;
    marks.push_back({(size_t)seq.n_past, state_of(seq)});
    make_room(marks, 0);
}

// Where that is more than may be kept, the earliest go.
void engine::make_room(std::vector<kept_state> & marks, size_t n_bytes) const {
    while (!marks.empty() && n_bytes + bytes_of(marks) > prefix_bytes()) {
        marks.erase(marks.begin());
    }
}

// Puts into memory what the last clean pass has left of the tokens that this prompt begins with as well, and returns
// their number. It lies in the places where that pass had put it: an empty sequence gives its cells away from the first
// on in either case. Where it is all of them, the taps are as that pass left them too.
size_t engine::restore_prefix(sequence & seq, const std::vector<llama_token> & tokens, bool whole) {
    kept_prompt & kept = seq.kept;
    clear_memory(seq);
    seq.before_last.clear();
    size_t n = n_reusable(kept, tokens, whole);
    std::vector<kept_state> & marks = kept.marks;
    const auto is_other = [&](const kept_state & mark) { return mark.n_tokens > n; };
    marks.erase(std::find_if(marks.begin(), marks.end(), is_other), marks.end());
    const auto restored = [&] {
        llama_memory_t memory = llama_get_memory(ctx);
        const size_t n_bytes = kept.memory.size();
        return llama_state_seq_set_data_ext(ctx, kept.memory.data(), n_bytes, seq.id, 0) == n_bytes &&
               (n == kept.tokens.size() || ((!has_state() || set_state(seq, marks.back().bytes)) &&
                                            llama_memory_seq_rm(memory, seq.id, (llama_pos)n, -1))) &&
               llama_memory_seq_pos_max(memory, seq.id) == (llama_pos)n - 1 && (has_state() || memory_intact(seq));
    };
    if (n == 0 || !restored()) {
        clear_memory(seq);
        marks.clear();
        n = 0;
    }
    seq.n_past = (int32_t)n;
    seq.places.resize(std::min(seq.places.size(), n));
    if (n == tokens.size() && has_state() && seqs.size() > 1) {
        seq.places.clear(); // no token is computed that would tell where among the sequences' states this one now lies
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
    make_room(kept.marks, n_bytes);
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
