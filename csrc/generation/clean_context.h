// The clean context of an injected sequence whose cognitive tokens are refreshed (refresher.h): a second sequence that
// gets the same tokens. Its activations are needed every few tokens only. So it stays behind and gets several tokens
// together, which costs far less than one at a time.
#pragma once

#include "generation/refresher.h"
#include "model/engine.h"

#include <cstddef>
#include <optional>
#include <vector>

namespace metadeploy {

class clean_context {
public:
    // Construct after pass 1: `clean` holds its memory, and the taps of `injected` hold its activations.
    clean_context(engine & eng, sequence & injected, sequence & clean, const refresh_settings & settings);

    // answer: its tokens so far; the last one is the next token of the injected sequence. Returns what to evaluate
    // before that token, n_max tokens at most; then call on_evaluated(). Call it until it returns nothing.
    // on_evaluated() throws what engine::encode throws.
    std::optional<batch_part> next_batch(const std::vector<llama_token> & answer, size_t n_max);
    void on_evaluated();

    int32_t n_refreshed() const { return refreshed; } // number of times that cognitive tokens were recomputed

private:
    int64_t time() const { return injected.n_past - injected.plan.schedule_start; } // of the next token

    engine & eng;
    sequence & injected;
    sequence & clean;
    refresher refresh;
    int32_t refreshed = 0;
};

} // namespace metadeploy
