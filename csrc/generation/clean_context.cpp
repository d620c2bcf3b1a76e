#include "generation/clean_context.h"

#include "finite.h"

#include <algorithm>

namespace metadeploy {

namespace {

// So far it stays behind at most. More would hold other answers up, and a token of so many costs hardly less.
constexpr size_t MOST_BEHIND = 32;

} // namespace

clean_twin::clean_twin(engine & eng, sequence & injected, sequence & clean, const refresh_settings & settings)
    : eng(eng), injected(injected), clean(clean), when(settings, eng.tapped(injected), (size_t)eng.n_embd()) {}

// Where nothing is injected any more, nothing is compared either, and the clean context is left behind for good.
std::optional<batch_part> clean_twin::look(const std::vector<llama_token> & answer, size_t n_max) {
    const auto n_behind = (size_t)(injected.n_past + 1 - clean.n_past);
    if (n_behind == 0 || injected.plan.gain_at(injected.n_past) == 0.0f) {
        return std::nullopt;
    }
    const bool due = when.due(time());
    if (!due && n_behind < MOST_BEHIND) {
        return std::nullopt;
    }
    const size_t n = std::min(n_behind, n_max);
    const bool reads = due && n == n_behind;
    clean.plan.tap_at = reads ? injected.n_past : token_plan::NEVER;
    return batch_part{&clean, &answer[answer.size() - n_behind], n, outputs::none, entry_use::none};
}

void clean_twin::looked() {
    if (clean.plan.tap_at == token_plan::NEVER) {
        return;
    }
    clean.plan = {};
    std::vector<float> activations = eng.tapped(clean);
    clean.unproven = !all_finite(activations); // if not, the base itself overflows
    if (when.take(time(), activations)) {
        eng.set_tapped(injected, activations);
        eng.encode(injected, injected.plan.gain);
        ++n_made;
    }
}

} // namespace metadeploy
