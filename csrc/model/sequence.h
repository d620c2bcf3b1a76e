// One sequence of a context: what to do with its tokens, and facts about those that were evaluated.
#pragma once

#include "model/injection_schedule.h"

#include "llama.h"

#include <algorithm>
#include <cstdint>
#include <vector>

namespace metadeploy {

// What to do with a sequence's tokens in the decode calls that follow.
struct token_plan {
    static constexpr llama_pos NEVER = INT32_MAX;

    double gain = 0.0;         // 0: tokens stay clean
    llama_pos inject_from = 0; // tokens before this position stay clean
    injection_schedule schedule;
    llama_pos schedule_start = NEVER; // the prompt's last token: the schedule's time is 0 up to it
    llama_pos tap_pos = NEVER;        // position whose block outputs go to the taps
    llama_pos answer_from = NEVER;    // tokens from this position on are an answer's, for answer_taps

    float gain_at(llama_pos pos) const {
        return pos < inject_from ? 0.0f : (float)(gain * schedule.strength(std::max(0, pos - schedule_start)));
    }
};

struct sequence {
    llama_seq_id id = 0; // also its slot in taps, tables and hidden states
    token_plan plan;
    int32_t n_past = 0;
    int32_t logits_row = -1; // of its last token, in the batch that was evaluated last
    // By position, of the tokens whose hidden states pass 1 stored: fingerprints of the cells that it wrote; and a
    // fingerprint of the place of the state.
    std::vector<uint64_t> cell_fingerprints;
    uint64_t state_fingerprint = 0;
    // Its memory may hold values that are not finite: something huge was injected, and no logits have been checked
    // since. Its data is then cleared before another prompt uses it.
    bool unproven = false;
    bool cells_valid = false; // each token still has the cells that pass 1 gave it, and no state has moved on
    // The state before the prompt's last token, if the memory has a state and that token is evaluated a second time.
    std::vector<uint8_t> checkpoint_before_last;
};

} // namespace metadeploy
