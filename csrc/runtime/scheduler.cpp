#include "runtime/scheduler.h"

#include "errors.h"

#include <algorithm>

namespace metadeploy {

size_t scheduler::add(std::vector<llama_token> prompt, generation_params params) {
    waiting.push_back({next_id, std::move(prompt), std::move(params)});
    return next_id++;
}

void scheduler::cancel(size_t id) {
    const auto is_it = [id](const request & item) { return item.id == id; };
    waiting.erase(std::remove_if(waiting.begin(), waiting.end(), is_it), waiting.end());
    for (slot & each : slots) {
        if (each.answer && each.id == id) {
            prompts.erase(std::remove(prompts.begin(), prompts.end(), &each), prompts.end());
            each.answer.reset();
        }
    }
}

size_t scheduler::n_free() const {
    const auto is_free = [](const slot & each) { return !each.answer; };
    const auto n = (size_t)std::count_if(slots.begin(), slots.end(), is_free);
    return n - std::min(n, waiting.size());
}

// The free sequence that has kept most of what this prompt begins with.
sequence & scheduler::best_sequence(const std::vector<llama_token> & prompt) {
    sequence * best = nullptr;
    std::ptrdiff_t most = -1;
    for (sequence & seq : eng.sequences()) {
        const std::vector<llama_token> & kept = seq.kept.tokens;
        const auto [end, _] = std::mismatch(kept.begin(), kept.end(), prompt.begin(), prompt.end());
        if (!slots[(size_t)seq.id].answer && end - kept.begin() > most) {
            most = end - kept.begin();
            best = &seq;
        }
    }
    return *best;
}

void scheduler::admit() {
    const auto is_free = [](const slot & each) { return !each.answer; };
    while (!waiting.empty() && std::any_of(slots.begin(), slots.end(), is_free)) {
        request item = std::move(waiting.front());
        waiting.pop_front();
        sequence & seq = best_sequence(item.prompt);
        try {
            auto answer = std::make_shared<generation>(eng, seq, std::move(item.prompt), std::move(item.params));
            slot & into = slots[(size_t)seq.id];
            into = {item.id, std::move(answer), false};
            prompts.push_back(&into);
        } catch (const error &) {
            events.push_back({item.id, {}, false, nullptr, std::current_exception()});
        }
    }
}

scheduler::slot * scheduler::resuming() const {
    const auto resumes = [](slot * each) { return each->answer->next(1).entry == entry_use::resume; };
    const auto found = std::find_if(prompts.begin(), prompts.end(), resumes);
    return found == prompts.end() ? nullptr : *found;
}

// A piece at a time is cut where it would be cut for a prompt that is alone, whose logits are then the same to the bit.
// Pass 2 comes before anything else where it resumes: what others compute may move the states that pass 1 has left.
void scheduler::evaluate_prompts() {
    const size_t n_piece = std::min(llama_n_batch(eng.context()), llama_n_ubatch(eng.context()));
    for (size_t n_done = 0; !prompts.empty();) {
        slot * each = resuming();
        each = each ? each : prompts.front();
        const batch_part part = each->answer->next(n_piece);
        if (n_done > 0 && n_done + part.n_tokens > n_piece) {
            return;
        }
        n_done += part.n_tokens;
        prompts.erase(std::find(prompts.begin(), prompts.end(), each)); // the others come first next time
        prompts.push_back(each);
        evaluate({each}, {part});
    }
}

void scheduler::evaluate_answers() {
    const size_t n_most = std::min<size_t>(llama_n_batch(eng.context()), llama_n_ubatch(eng.context()));
    std::vector<slot *> chosen;
    std::vector<batch_part> parts;
    for (slot & each : slots) {
        if (!each.answer || !each.answer->has_prompt() || each.served) {
            continue;
        }
        event last{each.id, {}, false, each.answer, nullptr};
        if (each.answer->at_limit(last.out)) {
            close(each, std::move(last));
            continue;
        }
        chosen.push_back(&each);
        parts.push_back(each.answer->next(1));
        if (parts.size() == n_most) {
            evaluate(chosen, parts);
            chosen.clear();
            parts.clear();
        }
    }
    if (!parts.empty()) {
        evaluate(chosen, parts);
    }
}

void scheduler::evaluate(const std::vector<slot *> & chosen, const std::vector<batch_part> & parts) {
    const double ms = eng.evaluate(parts);
    for (slot * each : chosen) {
        try {
            each->answer->evaluated(ms);
            if (each->answer->has_prompt()) {
                sample(*each);
            }
        } catch (const error &) {
            close(*each, {each->id, {}, false, each->answer, std::current_exception()});
        }
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
    prompts.erase(std::remove(prompts.begin(), prompts.end(), &of), prompts.end());
    of = {};
    events.push_back(std::move(last));
}

std::vector<scheduler::event> scheduler::step() {
    events.clear();
    for (slot & each : slots) {
        each.served = false;
    }
    admit();
    evaluate_prompts();
    if (eng.has_state() && resuming()) {
        evaluate_prompts();
    }
    evaluate_answers();
    return std::move(events);
}

} // namespace metadeploy
