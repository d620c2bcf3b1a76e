#include "runtime/clean_twin.h"

namespace metadeploy {

clean_twin::clean_twin(engine & eng, sequence & injected, sequence & clean, const refresh_settings & settings)
    : eng(eng), injected(injected), clean(clean), when(settings, eng.tapped(injected), (size_t)eng.n_embd()) {}

// Where nothing is injected any more, nothing is compared either, and the clean context is left behind for good.
bool clean_twin::behind() const {
    return clean.n_past == injected.n_past && injected.plan.gain_at(injected.n_past) != 0.0f;
}

std::optional<batch_part> clean_twin::look(const llama_token & token) {
    if (!behind() || !when.due(time())) {
        return std::nullopt;
    }
    clean.plan.tap_at = clean.n_past;
    // an output, for the last block of many architectures has a row for nothing else
    return batch_part{&clean, &token, 1, outputs::last, entry_use::none};
}

void clean_twin::looked() {
    clean.plan = {};
    std::vector<float> activations = eng.tapped(clean);
    if (when.take(time(), activations)) {
        eng.renew(injected, activations);
        ++n_made;
    }
}

std::optional<batch_part> clean_twin::follow(const llama_token & token) const {
    if (!behind()) {
        return std::nullopt;
    }
    return batch_part{&clean, &token, 1, outputs::none, entry_use::none};
}

} // namespace metadeploy
