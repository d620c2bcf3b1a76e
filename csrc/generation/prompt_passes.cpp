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
      inject_last_only(
          is_injected && wanted == goal::answer && eng.meta()->config().from == inject_from::last_prompt_token),
      split_last_token(inject_last_only && eng.memory().has_state() && !inject.tokens),
      last_batch(eng.n_batches()) {
    eng.check_prompt(prompt);
    check_injection(inject, eng.meta());
    time.n_prompt = (int32_t)prompt.size();
    if (wanted == goal::all_logits) {
        if (is_injected) {
            eng.reset(seq);
        }
        eng.memory().clear(seq);
        begin_pass1(0);
        return;
    }
    if (is_injected && inject.tokens) {
        begin_given();
        return;
    }
    const size_t first = restore(/*whole =*/!split_last_token && (is_injected || wanted == goal::activations));
    if (split_last_token) {
        seq.cell_fingerprints.clear();
        begin(stage::prefix, first, prompt.size() - 1, cache_mode::off);
    } else {
        begin_pass1(first);
    }
    if (pos == end) {
        finish_pass1();
    }
}

// Restores the tokens that the prompt cache has, and finds out where pass 1 must stop to add a checkpoint.
size_t prompt_passes::restore(bool whole) {
    const stopwatch clock(time.pass1_ms);
    checkpoints = eng.cache().checkpoints_for(seq.id, prompt);
    const size_t first = eng.cache().restore(seq, prompt, whole);
    if (first == prompt.size()) {
        eng.set_prompt_rows(seq, eng.cache().activations(seq.id));
    }
    checkpoints.erase(checkpoints.begin(), std::upper_bound(checkpoints.begin(), checkpoints.end(), first));
    if (inject_last_only && !checkpoints.empty() && checkpoints.back() == prompt.size() - 1) {
        checkpoints.pop_back(); // save() stores everything there
    }
    time.n_reused = (int32_t)first;
    return first;
}

void prompt_passes::begin(stage next, size_t first, size_t last, cache_mode mode) {
    current = next;
    pos = first;
    end = last;
    hidden = mode;
    seq.plan = {};
    if (current == stage::pass1) {
        seq.plan.tap_pos = (llama_pos)prompt.size() - 1;
    } else if (current == stage::pass2) {
        seq.plan = plan_injection(inject, *eng.meta(), prompt.size());
    }
}

// Begins pass 1 at a token. Hidden states are stored only if those of all earlier tokens are there.
void prompt_passes::begin_pass1(size_t first) {
    const bool useful = wanted == goal::all_logits ? is_injected : is_injected || eng.cache().enabled();
    const bool store = useful && !split_last_token && eng.hidden() &&
                       seq.cell_fingerprints.size() == (size_t)seq.n_past &&
                       eng.hidden()->worth_storing(prompt.size(), eng.memory().has_state());
    begin(stage::pass1, first, prompt.size(), store ? cache_mode::store : cache_mode::off);
}

// Cognitive tokens that are given need no pass 1. Tokens that stay clean in pass 2 can come from the prompt cache.
void prompt_passes::begin_given() {
    {
        const stopwatch clock(time.encode_ms);
        eng.fold(seq, inject.tokens->data, inject.gain);
    }
    seq.checkpoint_before_last.clear();
    if (!inject_last_only) {
        begin_pass2(cache_mode::off);
        return;
    }
    const size_t first = restore(/*whole =*/false);
    seq.cell_fingerprints.clear();
    begin(stage::prefix, first, prompt.size() - 1, cache_mode::off);
    if (pos == end) {
        finish_pass1();
    }
}

// Called at the end of pass 1, or before its last token if that is evaluated separately.
void prompt_passes::finish_pass1() {
    seq.plan = {};
    if (current == stage::prefix) {
        const size_t last = prompt.size() - 1;
        if (last > 0) {
            const stopwatch clock(time.pass1_ms);
            if (split_last_token) {
                seq.checkpoint_before_last = eng.memory().save_state(seq);
            }
            eng.cache().save(seq, prompt, last, /*activations =*/{});
        }
        if (inject.tokens) {
            begin(stage::pass2, last, prompt.size(), cache_mode::off);
            time.pass2 = pass2_kind::full;
        } else {
            begin_pass1(last);
        }
        return;
    }
    tapped = true;
    if (wanted != goal::all_logits && !split_last_token && time.n_reused < time.n_prompt) {
        const stopwatch clock(time.pass1_ms);
        eng.cache().save(seq, prompt, prompt.size(), eng.prompt_rows(seq));
    }
    if (!is_injected || wanted == goal::activations) {
        current = stage::done;
        return;
    }
    if (clean) {
        const stopwatch clock(time.pass1_ms);
        eng.memory().copy(seq, *clean);
    }
    time.hidden_bytes = (int64_t)(seq.cell_fingerprints.size() * eng.hidden()->row_bytes());
    {
        const stopwatch clock(time.encode_ms);
        eng.encode(seq, inject.gain);
    }
    seq.cells_valid = eng.memory().cells_valid(seq);
    begin_pass2(eng.hidden()->can_reuse(seq, prompt.size()) ? cache_mode::reuse : cache_mode::off);
}

// Begins pass 2. Decoding then continues with the same injection.
void prompt_passes::begin_pass2(cache_mode mode) {
    const size_t first = inject_last_only ? prompt.size() - 1 : 0;
    rows.clear();
    if (eng.memory().rewind(seq, first)) {
        begin(stage::pass2, first, prompt.size(), mode);
    } else {
        begin(stage::replay, 0, first, cache_mode::off);
    }
    time.pass2 = hidden == cache_mode::reuse ? pass2_kind::tail : pass2_kind::full;
}

batch_part prompt_passes::next_batch(size_t n_max) {
    // a batch of another sequence may have moved the states of all sequences, also the one that pass 1 left
    if (hidden == cache_mode::reuse && seq.n_past == 0 && eng.memory().has_state() && eng.n_batches() != last_batch) {
        begin_pass2(cache_mode::off);
    }
    if (wanted == goal::all_logits) {
        n_max = std::min(n_max, CAPTURE_BATCH);
    }
    const size_t stop = checkpoints.empty() ? end : std::min(end, checkpoints.front());
    const size_t n = std::min(n_max, stop - pos);
    const outputs which = wanted == goal::all_logits ? outputs::all : pos + n == end ? outputs::last : outputs::none;
    return {&seq, &prompt[pos], n, which, hidden};
}

void prompt_passes::on_evaluated(double ms) {
    last_batch = eng.n_batches();
    (current == stage::prefix || current == stage::pass1 ? time.pass1_ms : time.pass2_ms) += ms;
    if (hidden == cache_mode::reuse && eng.hidden()->failed()) {
        begin_pass2(cache_mode::off);
        return;
    }
    const auto n = (size_t)seq.n_past - pos;
    const bool is_last_pass = is_injected ? current == stage::pass2 : wanted != goal::activations;
    if (is_last_pass && wanted == goal::answer && pos + n == end) {
        eng.check_logits(seq);
    }
    if (is_last_pass && wanted == goal::all_logits) {
        eng.check_logits(seq, n);
        const float * first = llama_get_logits_ith(eng.context(), seq.logits_row - (int32_t)n + 1);
        rows.insert(rows.end(), first, first + n * (size_t)eng.n_vocab());
    }
    pos += n;
    if (!checkpoints.empty() && pos == checkpoints.front()) {
        const stopwatch clock(time.pass1_ms);
        eng.cache().add_checkpoint(seq);
        checkpoints.erase(checkpoints.begin());
    }
    if (pos < end) {
        return;
    }
    switch (current) {
    case stage::prefix:
    case stage::pass1:
        finish_pass1();
        break;
    case stage::replay:
        begin(stage::pass2, end, prompt.size(), cache_mode::off);
        break;
    case stage::pass2:
    case stage::done:
        current = stage::done;
        break;
    }
}

void prompt_passes::run() {
    while (!done()) {
        const batch_part part = next_batch(llama_n_batch(eng.context()));
        on_evaluated(eng.evaluate({part}));
    }
}

} // namespace metadeploy
