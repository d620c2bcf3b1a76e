// A prompt on its way through both passes, a batch at a time, so that other sequences can be computed in between.
#pragma once

#include "generation/timings.h"
#include "model/engine.h"
#include "model/injection.h"

#include <cstddef>
#include <cstdint>
#include <vector>

namespace metadeploy {

// Prompts that are only looked at come in small steps: all their logits are kept, and a row may be megabytes.
inline constexpr size_t CAPTURE_BATCH = 64;

class prompt_passes {
public:
    enum class goal {
        answer,      // logits for the token that follows
        activations, // of the clean pass; there is no second one
        all_logits   // at every position, from an empty memory, and nothing of it is left for the next prompt
    };

    // Takes the sequence over, with what it has left of a prompt that begins alike. Both must outlive this, as must
    // clean, a sequence that gets what the clean pass leaves in memory.
    // Throws error (empty prompt, bad token), context_overflow_error, decode_error (cognitive tokens are not finite),
    // and what check_injection throws.
    prompt_passes(
        engine & eng,
        sequence & seq,
        std::vector<llama_token> tokens,
        const injection & inject,
        goal wanted = goal::answer,
        sequence * clean = nullptr);

    bool done() const { return now == stage::done; }

    // What is to be evaluated now, n_max tokens at most; then evaluated(), with the time it took, before any other
    // batch is.
    batch_part next(size_t n_max);
    void evaluated(double ms);
    void run(); // evaluates all of it, with no other batch in between

    const std::vector<llama_token> & tokens() const { return prompt; }
    const timings & times() const { return time; }
    const std::vector<float> & logits() const { return rows; } // of goal all_logits: n_vocab values for each token

private:
    enum class stage {
        head,     // clean tokens up to the last one, which is evaluated apart
        clean,    // pass 1
        again,    // tokens before those that are injected into, where memory could not step back to them
        injected, // pass 2
        done
    };

    size_t restore(bool whole);
    void begin(stage next, size_t first, size_t last, entry_use use);
    void begin_clean(size_t first);
    void finish_clean();
    void begin_held();
    void begin_injected(entry_use use);

    engine & eng;
    sequence & seq;
    sequence * const clean;
    const std::vector<llama_token> prompt;
    const injection inject;
    const goal wanted;
    const bool is_injected;
    const bool from_last; // only the last token is injected into: keys and values of the others serve both passes
    const bool in_two;    // and its state has to be kept, as the memory cannot step back

    stage now = stage::done;
    size_t at = 0;             // the token that is evaluated next
    size_t until = 0;          // the end of this stage
    std::vector<size_t> marks; // where pass 1 is to keep the state for prompts to come
    entry_use entry = entry_use::none;
    int64_t last_batch; // of the engine, when this prompt was evaluated last
    timings time;
    std::vector<float> rows;
};

} // namespace metadeploy
