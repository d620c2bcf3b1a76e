#include "generation/batch_scheduler.h"

#include "errors.h"

#include <algorithm>
#include <optional>
#include <utility>

namespace metadeploy {

size_t scheduler::add(std::vector<llama_token> prompt, generation_params params) {
    const size_t n_sequences = generation::n_sequences(eng, params);
    waiting.push_back({next_id, std::move(prompt), std::move(params), n_sequences});
    return next_id++;
}

void scheduler::cancel(size_t id) {
    const auto is_it = [id](const request & item) { return item.id == id; };
    waiting.erase(std::remove_if(waiting.begin(), waiting.end(), is_it), waiting.end());
    for (slot & each : slots) {
        if (each.answer && each.id == id) {
            release(each);
        }
    }
}

size_t scheduler::n_idle() const {
    return (size_t)std::count_if(slots.begin(), slots.end(), [](const slot & each) { return each.is_free(); });
}

size_t scheduler::n_free() const {
    size_t n_wanted = 0;
    for (const request & item : waiting) {
        n_wanted += item.n_sequences;
    }
    return n_idle() - std::min(n_idle(), n_wanted);
}

// The free one that has kept most of what this prompt can use, and least of what others may still use.
scheduler::slot & scheduler::best_slot(const std::vector<llama_token> & prompt) {
    slot * best = nullptr;
    std::pair<size_t, size_t> least; // tokens to compute now or, as they are forgotten, once more; those of now
    for (const sequence & seq : eng.sequences()) {
        slot & each = slots[(size_t)seq.id];
        const size_t n_reusable = eng.cache().n_reusable(seq.id, prompt, /*whole =*/true);
        const size_t n_now = prompt.size() - n_reusable;
        const std::pair<size_t, size_t> cost(n_now + eng.cache().n_tokens(seq.id) - n_reusable, n_now);
        if (each.is_free() && (!best || cost < least)) {
            least = cost;
            best = &each;
        }
    }
    return *best;
}

// From the other end, so that answers stay side by side, and their clean contexts too: such share a micro-batch.
scheduler::slot & scheduler::another_slot(const slot & than) {
    return *std::find_if(
        slots.rbegin(), slots.rend(), [&](const slot & each) { return each.is_free() && &each != &than; });
}

void scheduler::admit() {
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

void scheduler::begin(request item) {
    if (item.n_sequences > slots.size()) {
        throw error("a refresh needs a second sequence for its clean context, the context has one (give n_parallel=2)");
    }
    slot & into = best_slot(item.prompt);
    slot * clean = item.n_sequences > 1 ? &another_slot(into) : nullptr;
    const auto sequence_of = [this](const slot & each) { return &eng.sequences()[(size_t)(&each - slots.data())]; };
    auto answer = std::make_shared<generation>(
        eng, *sequence_of(into), std::move(item.prompt), std::move(item.params), clean ? sequence_of(*clean) : nullptr);
    prompts.push_back(&into);
    into.answer = std::move(answer);
    into.id = item.id;
    into.clean = clean;
    if (clean) {
        clean->lent = true;
    }
}

// The prompt whose pass 2 begins where its pass 1 has left a state: until that is its sequence's again, others may
// write there, so it goes on at once.
scheduler::slot * scheduler::resuming() const {
    const auto resumes = [](slot * each) {
        const batch_part part = each->answer->next(1);
        return part.entry == entry_use::resume && part.seq->n_past == 0;
    };
    const auto found = eng.memory().has_state() ? std::find_if(prompts.begin(), prompts.end(), resumes) : prompts.end();
    return found == prompts.end() ? nullptr : *found;
}

// A piece at a time is cut where it would be cut for a prompt that is alone, whose logits are then the same to the bit.
void scheduler::evaluate_prompts() {
    const size_t n_piece = std::min(llama_n_batch(eng.context()), llama_n_ubatch(eng.context()));
    size_t n_done = 0;
    const auto fits = [&](slot * each) {
        return n_done == 0 || n_done + each->answer->next(n_piece).n_tokens <= n_piece;
    };
    for (;;) {
        slot * each = resuming();
        if (!each) {
            const auto found = std::find_if(prompts.begin(), prompts.end(), fits);
            if (found == prompts.end()) {
                return;
            }
            each = *found;
        }
        const batch_part part = each->answer->next(n_piece);
        n_done += part.n_tokens;
        prompts.erase(std::find(prompts.begin(), prompts.end(), each)); // the others come first next time
        prompts.push_back(each);
        evaluate({each}, {part});
    }
}

void scheduler::evaluate_answers() {
    std::vector<slot *> chosen;
    for (slot & each : slots) {
        if (!each.answer || !each.answer->has_prompt() || each.served) {
            continue;
        }
        event last{each.id, {}, false, each.answer, nullptr};
        if (each.answer->at_limit(last.out)) {
            close(each, std::move(last));
        } else {
            chosen.push_back(&each);
        }
    }
    while (look(chosen)) {
        chosen.erase(
            std::remove_if(chosen.begin(), chosen.end(), [](const slot * each) { return !each->answer; }),
            chosen.end());
    }
    std::vector<batch_part> parts;
    for (slot * each : chosen) {
        parts.push_back(each->answer->next(1));
    }
    if (!parts.empty()) {
        evaluate(chosen, parts);
    }
}

// Clean contexts come first where new cognitive tokens may hold from this token on. Returns whether there were any.
bool scheduler::look(const std::vector<slot *> & chosen) {
    std::vector<slot *> looking;
    std::vector<batch_part> parts;
    for (slot * each : chosen) {
        if (const auto part = each->answer->look(llama_n_batch(eng.context()) / chosen.size())) {
            looking.push_back(each);
            parts.push_back(*part);
        }
    }
    if (parts.empty()) {
        return false;
    }
    const double ms = eng.evaluate(parts);
    for (slot * each : looking) {
        alone(*each, [&] { each->answer->looked(ms); });
    }
    return true;
}

void scheduler::evaluate(const std::vector<slot *> & chosen, const std::vector<batch_part> & parts) {
    const double ms = eng.evaluate(parts);
    for (slot * each : chosen) {
        alone(*each, [&] {
            each->answer->evaluated(ms);
            if (each->answer->has_prompt()) {
                sample(*each);
            }
        });
    }
}

// Runs f for one request. Any exception ends only this request: llama.cpp's samplers and grammars throw their own
// types. The other requests continue.
template <typename F>
void scheduler::alone(slot & of, F && f) {
    event last{of.id, {}, false, of.answer, nullptr};
    try {
        f();
    } catch (...) {
        last.fault = own_fault();
        close(of, std::move(last));
    }
}

// Its logits are those of the batch that was evaluated last.
void scheduler::sample(slot & of) {
    prompts.erase(std::remove(prompts.begin(), prompts.end(), &of), prompts.end());
    event made{of.id, {}, true, of.answer, nullptr};
    // a limit may forbid the first token; for the others it has been looked at before they were evaluated
    const bool none = of.answer->tokens().empty() && of.answer->at_limit(made.out);
    made.more = !none && of.answer->sample(made.out);
    if (!made.more) {
        close(of, std::move(made));
        return;
    }
    of.served = true;
    events.push_back(std::move(made));
}

void scheduler::close(slot & of, event last) {
    release(of);
    events.push_back(std::move(last));
}

void scheduler::release(slot & of) {
    prompts.erase(std::remove(prompts.begin(), prompts.end(), &of), prompts.end());
    if (of.clean) {
        of.clean->lent = false;
    }
    of = {};
}

std::vector<scheduler::event> scheduler::step() {
    events.clear();
    for (slot & each : slots) {
        each.served = false;
    }
    admit();
    evaluate_prompts();
    evaluate_answers();
    return std::move(events);
}

} // namespace metadeploy
