// The clean context beside an injected one, where cognitive tokens are to be made anew (refresh.h): a sequence of its
// own that gets the same tokens. It is looked at every few tokens, so it stays behind and gets them together, which
// costs far less than one at a time.
#pragma once

#include "generation/refresher.h"
#include "model/engine.h"

#include <cstddef>
#include <optional>
#include <vector>

namespace metadeploy {

class clean_twin {
public:
    // After the prompt, whose clean pass the clean sequence holds and the injected one's taps are of.
    clean_twin(engine & eng, sequence & injected, sequence & clean, const refresh_settings & settings);

    // Of the answer so far, whose last token is the injected sequence's next: what is to be evaluated before that one
    // is, n_max tokens at most, and then looked(); again until there is nothing more. looked() throws what
    // engine::encode throws.
    std::optional<batch_part> look(const std::vector<llama_token> & answer, size_t n_max);
    void looked();

    int32_t n_renewed() const { return n_made; } // times that tokens were made anew

private:
    int64_t time() const { return injected.n_past - injected.plan.time_zero; } // of the next token

    engine & eng;
    sequence & injected;
    sequence & clean;
    refresher when;
    int32_t n_made = 0;
};

} // namespace metadeploy
