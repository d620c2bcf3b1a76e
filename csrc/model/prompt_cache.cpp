#include "model/prompt_cache.h"

#include <algorithm>
#include <iterator>
#include <new>
#include <utility>

namespace metadeploy {

namespace {

// An entry is restored as a whole even if only its beginning is needed. So a prompt must share at least this fraction
// of its tokens: restoring a token takes far less than a hundredth of the time that computing it takes.
constexpr double MIN_REUSE_FRACTION = 1.0 / 32;

size_t n_common(const std::vector<llama_token> & a, const std::vector<llama_token> & b) {
    const auto [end, _] = std::mismatch(a.begin(), a.end(), b.begin(), b.end());
    return (size_t)(end - a.begin());
}

} // namespace

// A state belongs to its last token only. So with a state, a prompt can only begin at a checkpoint.
size_t prompt_cache::n_reusable(llama_seq_id id, const std::vector<llama_token> & tokens, bool whole) const {
    const prompt_cache_entry & entry = entry_of(id);
    size_t n = n_common(entry.tokens, tokens);
    whole = whole && n == entry.tokens.size() && !entry.activations.empty();
    if (n > 0 && n == tokens.size() && !whole) {
        --n; // the last token must be evaluated for its logits or activations
    }
    if (memory.has_state() && n < entry.tokens.size()) {
        const auto is_beyond = [](size_t n_tokens, const checkpoint & c) { return n_tokens < c.n_tokens; };
        const auto after = std::upper_bound(entry.checkpoints.begin(), entry.checkpoints.end(), n, is_beyond);
        n = after == entry.checkpoints.begin() ? 0 : std::prev(after)->n_tokens;
    }
    return (double)n >= MIN_REUSE_FRACTION * (double)entry.tokens.size() ? n : 0;
}

// Checkpoints are useful at the first difference from the last prompt, and at the ends of the last two turns of a chat.
// When the chat continues, the text after these ends often changes: an empty thought is left out, or a suffix moves to
// the newest question.
std::vector<size_t> prompt_cache::checkpoints_for(llama_seq_id id, const std::vector<llama_token> & tokens) const {
    constexpr int MAX_TURNS = 2;
    std::vector<size_t> checkpoints;
    if (!memory.has_state() || !enabled()) {
        return checkpoints;
    }
    const llama_vocab * vocab = llama_model_get_vocab(llama_get_model(ctx));
    int n_turns = 0;
    for (size_t n = tokens.size() - 1; n > 0 && n_turns < MAX_TURNS; --n) {
        if (llama_vocab_is_eog(vocab, tokens[n - 1])) {
            checkpoints.push_back(n);
            ++n_turns;
        }
    }
    const std::vector<llama_token> & last = entry_of(id).tokens;
    const size_t n = n_common(last, tokens);
    if (n < std::min(last.size(), tokens.size()) && (double)n >= MIN_REUSE_FRACTION * (double)tokens.size()) {
        checkpoints.push_back(n);
    }
    std::sort(checkpoints.begin(), checkpoints.end());
    checkpoints.erase(std::unique(checkpoints.begin(), checkpoints.end()), checkpoints.end());
    return checkpoints;
}

void prompt_cache::add_checkpoint(const sequence & seq) {
    std::vector<checkpoint> & checkpoints = entry_of(seq.id).checkpoints;
    checkpoints.push_back({(size_t)seq.n_past, memory.save_state(seq)});
    make_room(checkpoints, 0);
}

// Drops the earliest checkpoints until the rest fits beside n_bytes.
void prompt_cache::make_room(std::vector<checkpoint> & checkpoints, size_t n_bytes) const {
    for (const checkpoint & c : checkpoints) {
        n_bytes += c.bytes.size();
    }
    while (!checkpoints.empty() && n_bytes > max_bytes) {
        n_bytes -= checkpoints.front().bytes.size();
        checkpoints.erase(checkpoints.begin());
    }
}

// Loads the first n tokens of an entry. Returns false if the memory does not hold exactly these afterwards.
bool prompt_cache::load(const sequence & seq, const prompt_cache_entry & entry, size_t n) {
    if (!memory.load(seq, entry.memory)) {
        return false;
    }
    const bool is_part = n < entry.tokens.size();
    if (is_part && memory.has_state() && !memory.load_state(seq, entry.checkpoints.back().bytes)) {
        return false;
    }
    return (is_part ? memory.truncate(seq, n) : memory.holds(seq, n)) &&
           (memory.has_state() || memory.cells_valid(seq));
}

// The restored tokens lie in the same cells as after the clean pass, because an empty sequence gives out its cells from
// the first one on in both cases.
size_t prompt_cache::restore(sequence & seq, const std::vector<llama_token> & tokens, bool whole) {
    prompt_cache_entry & entry = entry_of(seq.id);
    memory.clear(seq);
    seq.checkpoint_before_last.clear();
    size_t n = n_reusable(seq.id, tokens, whole);
    const auto is_beyond = [&](const checkpoint & c) { return c.n_tokens > n; };
    std::vector<checkpoint> & checkpoints = entry.checkpoints;
    checkpoints.erase(std::find_if(checkpoints.begin(), checkpoints.end(), is_beyond), checkpoints.end());
    if (n == 0 || !load(seq, entry, n)) {
        memory.clear(seq);
        checkpoints.clear();
        n = 0;
    }
    seq.n_past = (int32_t)n;
    seq.cell_fingerprints.resize(std::min(seq.cell_fingerprints.size(), n));
    if (n == tokens.size() && memory.has_state() && entries.size() > 1) {
        seq.cell_fingerprints.clear(); // no token is computed that would show the new place of this state
    }
    if (n < tokens.size()) {
        entry.tokens.clear(); // until the pass that begins now is over
    }
    return n;
}

void prompt_cache::save(
    const sequence & seq, const std::vector<llama_token> & tokens, size_t n_tokens, std::vector<float> activations) {
    const auto n_window = (size_t)llama_model_n_swa(llama_get_model(ctx));
    if (!enabled() || (n_window > 0 && n_tokens > n_window)) {
        return;
    }
    prompt_cache_entry & entry = entry_of(seq.id);
    const size_t n_bytes = memory.n_bytes(seq);
    if (n_bytes > max_bytes) {
        return;
    }
    make_room(entry.checkpoints, n_bytes);
    try {
        entry.memory.resize(n_bytes);
    } catch (const std::bad_alloc &) {
        return; // the next prompt is computed as a whole
    }
    if (!memory.save(seq, entry.memory)) {
        return;
    }
    entry.activations = std::move(activations);
    entry.tokens.assign(tokens.begin(), tokens.begin() + (std::ptrdiff_t)n_tokens);
}

} // namespace metadeploy
