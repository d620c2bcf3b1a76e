#include "generation/clean_context.h"

#include "finite.h"

#include <algorithm>

namespace metadeploy {

namespace {

// The most tokens that it stays behind. More would delay other answers, and make a token only slightly cheaper.
constexpr size_t MAX_BEHIND = 32;

} // namespace

clean_context::clean_context(engine & eng, sequence & injected, sequence & clean, const refresh_settings & settings)
    : eng(eng), injected(injected), clean(clean), refresh(settings, eng.tapped(injected), (size_t)eng.n_embd()) {}

// If nothing is injected any more, nothing is compared either, and the clean context stays behind for good.
std::optional<batch_part> clean_context::next_batch(const std::vector<llama_token> & answer, size_t n_max) {
    const auto n_behind = (size_t)(injected.n_past + 1 - clean.n_past);
    if (n_behind == 0 || injected.plan.gain_at(injected.n_past) == 0.0f) {
        return std::nullopt;
    }
    const bool due = refresh.due(time());
    if (!due && n_behind < MAX_BEHIND) {
        return std::nullopt;
    }
    const size_t n = std::min(n_behind, n_max);
    const bool is_read = due && n == n_behind;
    clean.plan.tap_pos = is_read ? injected.n_past : token_plan::NEVER;
    return batch_part{&clean, &answer[answer.size() - n_behind], n, outputs::none, cache_mode::off};
}

void clean_context::on_evaluated() {
    if (clean.plan.tap_pos == token_plan::NEVER) {
        return;
    }
    clean.plan = {};
    std::vector<float> activations = eng.tapped(clean);
    clean.unproven = !all_finite(activations); // if not, the base itself overflows
    if (refresh.update(time(), activations)) {
        eng.set_tapped(injected, activations);
        eng.encode(injected, injected.plan.gain);
        ++refreshed;
    }
}

} // namespace metadeploy
