#include "generation/prompt_passes.h"

#include "errors.h"
#include "stopwatch.h"

#include <algorithm>

namespace metadeploy {

prompt_passes::prompt_passes(
    engine & eng,
    sequence & seq,
    std::vector<llama_token> tokens,
    const injection & inject,
    goal wanted,
    sequence * clean)
    : eng(eng),
      seq(seq),
      clean(clean),
      prompt(std::move(tokens)),
      inject(inject),
      wanted(wanted),
      is_injected(injects(inject, eng.meta())),
      from_last(is_injected && wanted == goal::answer && eng.meta()->config().from == inject_from::last_prompt_token),
      in_two(from_last && eng.memory().has_state() && !inject.tokens),
      last_batch(eng.n_batches()) {
    eng.check_prompt(prompt);
    check_injection(inject, eng.meta());
    time.n_prompt = (int32_t)prompt.size();
    if (wanted == goal::all_logits) {
        if (is_injected) {
            eng.reset(seq);
        }
        eng.memory().clear(seq);
        begin_clean(0);
        return;
    }
    if (is_injected && inject.tokens) {
        begin_held();
        return;
    }
    const size_t first = restore(/*whole =*/!in_two && (is_injected || wanted == goal::activations));
    if (in_two) {
        seq.places.clear();
        begin(stage::head, first, prompt.size() - 1, entry_use::none);
    } else {
        begin_clean(first);
    }
    if (at == until) {
        finish_clean();
    }
}

// What the last prompt has left of this one, and where pass 1 is to stop on its way so that a state can be kept.
size_t prompt_passes::restore(bool whole) {
    const stopwatch clock(time.pass1_ms);
    marks = eng.cache().checkpoints_for(seq.id, prompt);
    const size_t first = eng.cache().restore(seq, prompt, whole);
    if (first == prompt.size()) {
        eng.set_tapped(seq, eng.cache().activations(seq.id));
    }
    marks.erase(marks.begin(), std::upper_bound(marks.begin(), marks.end(), first));
    if (from_last && !marks.empty() && marks.back() == prompt.size() - 1) {
        marks.pop_back(); // all that is kept is kept there
    }
    time.n_reused = (int32_t)first;
    return first;
}

void prompt_passes::begin(stage next, size_t first, size_t last, entry_use use) {
    now = next;
    at = first;
    until = last;
    entry = use;
    seq.plan = {};
    if (now == stage::clean) {
        seq.plan.tap_at = (llama_pos)prompt.size() - 1;
    } else if (now == stage::injected || now == stage::done) {
        seq.plan = plan_injection(inject, *eng.meta(), prompt.size());
    }
}

// Pass 1 from a token on. What has been kept of the tokens before it for pass 2 must be all of them.
void prompt_passes::begin_clean(size_t first) {
    const bool useful = wanted == goal::all_logits ? is_injected : is_injected || eng.cache().enabled();
    const bool keep = useful && !in_two && eng.hidden() && seq.places.size() == (size_t)seq.n_past &&
                      eng.hidden()->worth_keeping(prompt.size(), eng.memory().has_state());
    begin(stage::clean, first, prompt.size(), keep ? entry_use::keep : entry_use::none);
}

// With cognitive tokens from elsewhere there is no pass 1. Tokens that stay clean all the same can be reused.
void prompt_passes::begin_held() {
    {
        const stopwatch clock(time.encode_ms);
        eng.fold(seq, inject.tokens->data, inject.gain);
    }
    seq.checkpoint_before_last.clear();
    if (!from_last) {
        begin_injected(entry_use::none);
        return;
    }
    const size_t first = restore(/*whole =*/false);
    seq.places.clear();
    begin(stage::head, first, prompt.size() - 1, entry_use::none);
    if (at == until) {
        finish_clean();
    }
}

// Pass 1 has come to its end, or to the last token where that is evaluated apart.
void prompt_passes::finish_clean() {
    seq.plan = {};
    if (now == stage::head) {
        const size_t last = prompt.size() - 1;
        if (last > 0) {
            const stopwatch clock(time.pass1_ms);
            if (in_two) {
                seq.checkpoint_before_last = eng.memory().save_state(seq);
            }
            eng.cache().save(seq, prompt, last, /*activations =*/{});
        }
        if (inject.tokens) {
            begin(stage::injected, last, prompt.size(), entry_use::none);
            time.pass2 = pass2_kind::full;
        } else {
            begin_clean(last);
        }
        return;
    }
    if (wanted != goal::all_logits && !in_two && time.n_reused < time.n_prompt) {
        const stopwatch clock(time.pass1_ms);
        eng.cache().save(seq, prompt, prompt.size(), eng.meta() ? eng.tapped(seq) : std::vector<float>());
    }
    if (!is_injected || wanted == goal::activations) {
        now = stage::done;
        return;
    }
    if (clean) {
        const stopwatch clock(time.pass1_ms);
        eng.memory().copy(seq, *clean);
    }
    time.hidden_bytes = (int64_t)(seq.places.size() * eng.hidden()->row_bytes());
    {
        const stopwatch clock(time.encode_ms);
        eng.encode(seq, inject.gain);
    }
    seq.intact = eng.memory().is_intact(seq);
    begin_injected(eng.hidden()->can_resume(seq, prompt.size()) ? entry_use::resume : entry_use::none);
}

// Pass 2. Decoding then goes on with the same injection.
void prompt_passes::begin_injected(entry_use use) {
    const size_t first = from_last ? prompt.size() - 1 : 0;
    rows.clear();
    if (eng.memory().rewind(seq, first)) {
        begin(stage::injected, first, prompt.size(), use);
    } else {
        begin(stage::again, 0, first, entry_use::none);
    }
    time.pass2 = entry == entry_use::resume ? pass2_kind::tail : pass2_kind::full;
}

batch_part prompt_passes::next(size_t n_max) {
    // another sequence's batch may move the states of all: the one that pass 1 has left is then not where it was
    if (entry == entry_use::resume && seq.n_past == 0 && eng.memory().has_state() && eng.n_batches() != last_batch) {
        begin_injected(entry_use::none);
    }
    const size_t n_most = wanted == goal::all_logits ? std::min(n_max, CAPTURE_BATCH) : n_max;
    const size_t end = marks.empty() ? until : std::min(until, marks.front());
    const size_t n = std::min(n_most, end - at);
    const outputs which = wanted == goal::all_logits ? outputs::all : at + n == until ? outputs::last : outputs::none;
    return {&seq, &prompt[at], n, which, entry};
}

void prompt_passes::evaluated(double ms) {
    last_batch = eng.n_batches();
    (now == stage::head || now == stage::clean ? time.pass1_ms : time.pass2_ms) += ms;
    if (entry == entry_use::resume && eng.hidden()->failed()) {
        begin_injected(entry_use::none);
        return;
    }
    const auto n = (size_t)seq.n_past - at;
    const bool is_last_pass = is_injected ? now == stage::injected : wanted != goal::activations;
    if (is_last_pass && wanted == goal::answer && at + n == until) {
        eng.check_logits(seq);
    }
    if (is_last_pass && wanted == goal::all_logits) {
        eng.check_logits(seq, n);
        const float * first = llama_get_logits_ith(eng.context(), seq.logits_row - (int32_t)n + 1);
        rows.insert(rows.end(), first, first + n * (size_t)eng.n_vocab());
    }
    at += n;
    if (!marks.empty() && at == marks.front()) {
        const stopwatch clock(time.pass1_ms);
        eng.cache().add_checkpoint(seq);
        marks.erase(marks.begin());
    }
    if (at < until) {
        return;
    }
    switch (now) {
    case stage::head:
    case stage::clean:
        finish_clean();
        break;
    case stage::again:
        begin(stage::injected, until, prompt.size(), entry_use::none);
        break;
    case stage::injected:
    case stage::done:
        now = stage::done;
        break;
    }
}

void prompt_passes::run() {
    while (!done()) {
        const batch_part part = next(llama_n_batch(eng.context()));
        evaluated(eng.evaluate({part}));
    }
}

} // namespace metadeploy
