#include "generation/batch_scheduler.h"

#include "errors.h"

#include <algorithm>
#include <optional>
#include <utility>

namespace metadeploy {

size_t batch_scheduler::add(std::vector<llama_token> prompt, generation_params params) {
    const size_t n_sequences = generation::n_sequences(eng, params);
    waiting.push_back({next_id, std::move(prompt), std::move(params), n_sequences});
    return next_id++;
}

void batch_scheduler::cancel(size_t id) {
    const auto is_it = [id](const request & item) { return item.id == id; };
    waiting.erase(std::remove_if(waiting.begin(), waiting.end(), is_it), waiting.end());
    for (slot & s : slots) {
        if (s.answer && s.id == id) {
            release(s);
        }
    }
}

size_t batch_scheduler::n_idle() const {
    return (size_t)std::count_if(slots.begin(), slots.end(), [](const slot & s) { return s.is_free(); });
}

size_t batch_scheduler::n_free() const {
    size_t n_wanted = 0;
    for (const request & item : waiting) {
        n_wanted += item.n_sequences;
    }
    return n_idle() - std::min(n_idle(), n_wanted);
}

// Picks the free slot whose cache serves this prompt best, at the least loss for others.
batch_scheduler::slot & batch_scheduler::pick_slot(const std::vector<llama_token> & prompt) {
    slot * best = nullptr;
    std::pair<size_t, size_t> min_cost; // tokens to compute: now and, because the cache loses them, later; now alone
    for (const sequence & seq : eng.sequences()) {
        slot & s = slots[(size_t)seq.id];
        const size_t n_reusable = eng.cache().n_reusable(seq.id, prompt, /*whole =*/true);
        const size_t n_now = prompt.size() - n_reusable;
        const std::pair<size_t, size_t> cost(n_now + eng.cache().n_tokens(seq.id) - n_reusable, n_now);
        if (s.is_free() && (!best || cost < min_cost)) {
            min_cost = cost;
            best = &s;
        }
    }
    return *best;
}

// Takes slots from the other end, so that answers stay side by side, and their clean contexts too: llama.cpp puts
// neighbors into one micro-batch.
batch_scheduler::slot & batch_scheduler::borrow_slot(const slot & borrower) {
    return *std::find_if(slots.rbegin(), slots.rend(), [&](const slot & s) { return s.is_free() && &s != &borrower; });
}

void batch_scheduler::admit() {
    while (!waiting.empty()) {
        const size_t n_sequences = waiting.front().n_sequences;
        if (n_sequences <= slots.size() && n_sequences > n_idle()) {
            return;
        }
        request item = std::move(waiting.front());
        waiting.pop_front();
        const size_t id = item.id;
        try {
            begin(std::move(item));
        } catch (...) {
            events.push_back({id, {}, false, nullptr, own_fault()});
        }
    }
}

void batch_scheduler::begin(request item) {
    if (item.n_sequences > slots.size()) {
        throw error("a refresh needs a second sequence for its clean context, the context has one (give n_parallel=2)");
    }
    slot & into = pick_slot(item.prompt);
    slot * clean = item.n_sequences > 1 ? &borrow_slot(into) : nullptr;
    const auto sequence_of = [this](const slot & s) { return &eng.sequences()[(size_t)(&s - slots.data())]; };
    auto answer = std::make_shared<generation>(
        eng, *sequence_of(into), std::move(item.prompt), std::move(item.params), clean ? sequence_of(*clean) : nullptr);
    prompts.push_back(&into);
    into.answer = std::move(answer);
    into.id = item.id;
    into.clean = clean;
    if (clean) {
        clean->borrowed = true;
    }
}

// Returns the prompt whose pass 2 starts from the state that pass 1 left in memory. Other sequences may overwrite this
// state before pass 2 has begun, so it must begin at once.
batch_scheduler::slot * batch_scheduler::starting_pass2() const {
    const auto starts = [](slot * s) {
        const batch_part part = s->answer->next_batch(1);
        return part.hidden == cache_mode::reuse && part.seq->n_past == 0;
    };
    const auto found = eng.memory().has_state() ? std::find_if(prompts.begin(), prompts.end(), starts) : prompts.end();
    return found == prompts.end() ? nullptr : *found;
}

// Cuts a prompt into the same micro-batches as if it were alone, so that its logits are the same to the bit.
void batch_scheduler::evaluate_prompts() {
    const size_t n_max = std::min(llama_n_batch(eng.context()), llama_n_ubatch(eng.context()));
    size_t n_done = 0;
    const auto fits = [&](slot * s) { return n_done == 0 || n_done + s->answer->next_batch(n_max).n_tokens <= n_max; };
    for (;;) {
        slot * s = starting_pass2();
        if (!s) {
            const auto found = std::find_if(prompts.begin(), prompts.end(), fits);
            if (found == prompts.end()) {
                return;
            }
            s = *found;
        }
        const batch_part part = s->answer->next_batch(n_max);
        n_done += part.n_tokens;
        prompts.erase(std::find(prompts.begin(), prompts.end(), s)); // the others come first the next time
        prompts.push_back(s);
        evaluate({s}, {part});
    }
}

void batch_scheduler::evaluate_answers() {
    std::vector<slot *> chosen;
    for (slot & s : slots) {
        if (!s.answer || !s.answer->has_prompt() || s.has_event) {
            continue;
        }
        event last{s.id, {}, false, s.answer, nullptr};
        if (s.answer->at_limit(last.out)) {
            finish(s, std::move(last));
        } else {
            chosen.push_back(&s);
        }
    }
    while (evaluate_clean_contexts(chosen)) {
        chosen.erase(
            std::remove_if(chosen.begin(), chosen.end(), [](const slot * s) { return !s->answer; }), chosen.end());
    }
    std::vector<batch_part> parts;
    for (slot * s : chosen) {
        parts.push_back(s->answer->next_batch(1));
    }
    if (!parts.empty()) {
        evaluate(chosen, parts);
    }
}

// Evaluates clean contexts first, because new cognitive tokens may be in force from this token on. Returns whether
// there were any.
bool batch_scheduler::evaluate_clean_contexts(const std::vector<slot *> & chosen) {
    std::vector<slot *> behind;
    std::vector<batch_part> parts;
    for (slot * s : chosen) {
        if (const auto part = s->answer->next_clean_batch(llama_n_batch(eng.context()) / chosen.size())) {
            behind.push_back(s);
            parts.push_back(*part);
        }
    }
    if (parts.empty()) {
        return false;
    }
    const double ms = eng.evaluate(parts);
    for (slot * s : behind) {
        run_for(*s, [&] { s->answer->on_clean_evaluated(ms); });
    }
    return true;
}

void batch_scheduler::evaluate(const std::vector<slot *> & chosen, const std::vector<batch_part> & parts) {
    const double ms = eng.evaluate(parts);
    for (slot * s : chosen) {
        run_for(*s, [&] {
            s->answer->on_evaluated(ms);
            if (s->answer->has_prompt()) {
                sample(*s);
            }
        });
    }
}

// Runs f for one request. Any exception ends only this request: llama.cpp's samplers and grammars throw their own
// types. The other requests continue.
template <typename F>
void batch_scheduler::run_for(slot & s, F && f) {
    event last{s.id, {}, false, s.answer, nullptr};
    try {
        f();
    } catch (...) {
        last.fault = own_fault();
        finish(s, std::move(last));
    }
}

// The logits must be those of the batch that was evaluated last.
void batch_scheduler::sample(slot & s) {
    prompts.erase(std::remove(prompts.begin(), prompts.end(), &s), prompts.end());
    event made{s.id, {}, true, s.answer, nullptr};
    // a limit may forbid the first token; other tokens were checked before they were evaluated
    const bool none = s.answer->tokens().empty() && s.answer->at_limit(made.out);
    made.more = !none && s.answer->sample(made.out);
    if (!made.more) {
        finish(s, std::move(made));
        return;
    }
    s.has_event = true;
    events.push_back(std::move(made));
}

void batch_scheduler::finish(slot & s, event last) {
    release(s);
    events.push_back(std::move(last));
}

void batch_scheduler::release(slot & s) {
    prompts.erase(std::remove(prompts.begin(), prompts.end(), &s), prompts.end());
    if (s.clean) {
        s.clean->borrowed = false;
    }
    s = {};
}

std::vector<batch_scheduler::event> batch_scheduler::step() {
    events.clear();
    for (slot & s : slots) {
        s.has_event = false;
    }
    admit();
    evaluate_prompts();
    evaluate_answers();
    return std::move(events);
}

} // namespace metadeploy
