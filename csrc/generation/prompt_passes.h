// Takes a prompt through both passes, a batch at a time, so that other sequences can be evaluated in between.
#pragma once

#include "generation/timings.h"
#include "model/engine.h"
#include "model/injection.h"

#include <cstddef>
#include <cstdint>
#include <vector>

namespace metadeploy {

// Inspected prompts are evaluated in small batches: all their logits are stored, and a row may be megabytes.
inline constexpr size_t CAPTURE_BATCH = 64;

class prompt_passes {
public:
    enum class goal {
        answer,      // logits for the token that follows
        activations, // of the clean pass; there is no second one
        all_logits   // at every position; does not use the prompt cache and does not save to it
    };

    // Takes the sequence over. The engine and the sequence must outlive this object, and so must `clean`, a sequence
    // that gets a copy of the memory after pass 1.
    // Throws error (empty prompt, bad token), context_overflow_error, decode_error (cognitive tokens are not finite),
    // and what check_injection throws.
    prompt_passes(
        engine & eng,
        sequence & seq,
        std::vector<llama_token> tokens,
        const injection & inject,
        goal wanted = goal::answer,
        sequence * clean = nullptr);

    bool done() const { return current == stage::done; }
    // Whether the last token went through a clean pass, now or for the prompt cache. Given cognitive tokens need none.
    bool has_activations() const { return tapped; }

    // Returns the next batch, of n_max tokens at most. Call on_evaluated() with the time that it took, before any other
    // batch is evaluated.
    batch_part next_batch(size_t n_max);
    void on_evaluated(double ms);
    void run(); // evaluates all of it, with no other batch in between

    const std::vector<llama_token> & tokens() const { return prompt; }
    const timings & times() const { return time; }
    const std::vector<float> & logits() const { return rows; } // of goal all_logits: n_vocab values for each token

private:
    enum class stage {
        prefix, // clean tokens up to the last one, which is evaluated separately
        pass1,
        replay, // the clean tokens again, if memory could not rewind to the first injected one
        pass2,
        done
    };

    size_t restore(bool whole);
    void begin(stage next, size_t first, size_t last, cache_mode mode);
    void begin_pass1(size_t first);
    void finish_pass1();
    void begin_given();
    void begin_pass2(cache_mode mode);

    engine & eng;
    sequence & seq;
    sequence * const clean;
    const std::vector<llama_token> prompt;
    const injection inject;
    const goal wanted;
    const bool is_injected;
    const bool inject_last_only; // keys and values of the other tokens serve both passes
    const bool split_last_token; // memory has a state, which needs a checkpoint before the last token

    stage current = stage::done;
    bool tapped = false;
    size_t pos = 0;                  // of the next token
    size_t end = 0;                  // of this stage
    std::vector<size_t> checkpoints; // where pass 1 adds a checkpoint to the prompt cache
    cache_mode hidden = cache_mode::off;
    int64_t last_batch; // of the engine, when this prompt was evaluated last
    timings time;
    std::vector<float> rows;
};

} // namespace metadeploy
