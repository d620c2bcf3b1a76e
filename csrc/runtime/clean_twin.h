// The clean context beside an injected one, where cognitive tokens are to be made anew (refresh.h): a sequence of its
// own that gets the same tokens, as a rule in the same batches.
#pragma once

#include "runtime/engine.h"
#include "runtime/refresh.h"

#include <optional>

namespace metadeploy {

class clean_twin {
public:
    // After the prompt, whose clean pass the clean sequence holds and the injected one's taps are of.
    clean_twin(engine & eng, sequence & injected, sequence & clean, const refresh_settings & settings);

    // The injected sequence's next token, where it has to be looked at before it is injected into; then looked(), right
    // after it has been evaluated. Throws what engine::renew throws.
    std::optional<batch_part> look(const llama_token & token);
    void looked();

    // That token otherwise, for the batch that the injected sequence gets it in.
    std::optional<batch_part> follow(const llama_token & token) const;

    int32_t n_renewed() const { return n_made; } // times that tokens were made anew

private:
    int64_t time() const { return injected.n_past - injected.plan.time_zero; } // of the next token
    bool behind() const;

    engine & eng;
    sequence & injected;
    sequence & clean;
    refresher when;
    int32_t n_made = 0;
};

} // namespace metadeploy
