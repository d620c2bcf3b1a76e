#include "model/engine.h"

#include "errors.h"
#include "finite.h"
#include "model/load_model.h"
#include "text/refusal.h"

#include "llama-ext.h"
#include "llama-model.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <set>
#include <stdexcept>

namespace metadeploy {

namespace {

// Bounds on the most that an injection adds to a hidden state, in all layers together. Up to SAFE_REACH it is about as
// large as the outliers of many bases, which are in the thousands: it does not cause an overflow, not even in F16
// (65504). From MAX_REACH on, squares overflow in F32, and so does every norm of the base.
constexpr double SAFE_REACH = 1e4;
constexpr double MAX_REACH = 1e18;

std::string number(double value) {
    char text[32];
    std::snprintf(text, sizeof(text), "%.3g", value);
    return text;
}

// Converts the exceptions of llama.cpp's tokenizers to error.
template <typename F>
auto with_tokenizer(F && f) {
    try {
        return f();
    } catch (const std::runtime_error & e) {
        throw error(std::string("llama.cpp's tokenizer: ") + e.what());
    } catch (const std::logic_error & e) {
        throw error(std::string("llama.cpp's tokenizer: ") + e.what());
    }
}

std::string layer_list(const std::vector<int32_t> & layers) {
    std::string text;
    for (const int32_t il : layers) {
        text += (text.empty() ? "" : ", ") + std::to_string(il);
    }
    return text;
}

tapped_layers layers_of(const std::optional<verdict_head> & head) {
    return head ? tapped_layers{head->prompt_layers, head->answer_layers} : tapped_layers{};
}

} // namespace

engine::engine(common_params params, const cache_limits & limits)
    : parameters(std::move(params)),
      limits(limits),
      loaded(load_model(parameters)),
      llm(loaded->model()),
      ctx(loaded->context()),
      chat(llm, parameters),
      seqs((size_t)parameters.n_parallel),
      mem(ctx, seqs),
      prompts(ctx, mem, seqs.size(), ((size_t)limits.prefix_mib << 20) / seqs.size()) {
    for (size_t i = 0; i < seqs.size(); ++i) {
        seqs[i].id = (llama_seq_id)i;
    }
    llama_set_abort_callback(
        ctx,
        [](void * self) {
            const auto & cancel = static_cast<engine *>(self)->cancel;
            return cancel && cancel();
        },
        this);
}

std::string engine::architecture() const {
    char arch[64] = "unknown";
    llama_model_meta_val_str(llm, "general.architecture", arch, sizeof(arch));
    return arch;
}

engine::~engine() {
    // The context goes before the hook and the tensors that its graphs point to. Detaching instead would reserve graphs
    // once more, which can fail, and a destructor has nobody to tell.
    loaded.reset();
}

// --- sidecar ---------------------------------------------------------------------------------------------------------

void engine::check_fits(const sidecar & source) const {
    const wrapper_config & config = source.config;
    std::vector<std::string> faults;
    if (config.n_embd != n_embd()) {
        faults.push_back(
            "is made for a base of width " + std::to_string(config.n_embd) + ", the model has " +
            std::to_string(n_embd()) + " (wrong base model?)");
    }
    if (config.base_block_count != 0 && config.base_block_count != n_layer()) {
        faults.push_back(
            "is made for a base of " + std::to_string(config.base_block_count) + " blocks, the model has " +
            std::to_string(n_layer()) + " (wrong base model?)");
    }
    for (const auto & [what, layers] :
         {std::pair<const char *, const std::vector<int32_t> &>{"target layers", config.target_layers},
          {"cross-attention layers", config.cross_attn_layers}}) {
        if (layers.empty()) {
            faults.push_back(std::string("has no ") + what + ", it would do nothing");
        } else if (*std::max_element(layers.begin(), layers.end()) >= n_layer()) {
            faults.push_back(
                std::string("has ") + what + " " + layer_list(layers) + ", the model has layers 0 to " +
                std::to_string(n_layer() - 1));
        }
    }
    if (source.verdict) {
        for (const std::vector<int32_t> * layers : {&source.verdict->prompt_layers, &source.verdict->answer_layers}) {
            if (!layers->empty() && *std::max_element(layers->begin(), layers->end()) >= n_layer()) {
                faults.push_back(
                    "has a verdict head that reads layers " + layer_list(*layers) + ", the model has layers 0 to " +
                    std::to_string(n_layer() - 1));
            }
        }
    }
    for (const int32_t token : config.refusal_token_ids) {
        if (token >= n_vocab()) {
            faults.push_back(
                "has refusal token " + std::to_string(token) + ", the model has a vocabulary of " +
                std::to_string(n_vocab()) + " (wrong base model?)");
            break;
        }
    }
    // these call the hook inside a block, before the residual is added: they do not pass the block's output
    static const std::set<std::string> hooked_inside = {"nemotron_h", "nemotron_h_moe"};
    if (const std::string arch = architecture(); hooked_inside.count(arch) != 0) {
        faults.push_back(
            "has no place to be injected: architecture '" + arch +
            "' calls the block hook inside the block, not at its output");
    }
    if (!faults.empty()) {
        throw model_mismatch_error(
            faults_message("sidecar '" + source.path + "' and model '" + parameters.model.path + "'", faults));
    }
}

void engine::set_hook(block_hook * next) {
    reserved = false;
    try {
        llama_set_block_hook(ctx, next);
        reserved = true;
    } catch (const std::exception & e) {
        throw model_load_error("model '" + parameters.model.path + "': no memory for its graphs: " + e.what());
    }
}

// Sets the hook that was there before, or none. If there is no memory for its graphs, the next batch tries again.
void engine::restore_hook(block_hook * previous) noexcept {
    try {
        set_hook(previous);
    } catch (const std::exception &) { // the error that led here, if any, says more
    }
}

void engine::reserve(block_hook & next, const std::set<int32_t> & layers, const std::string & subject) {
    next.largest = true;
    set_hook(&next);
    next.largest = false;
    std::vector<std::string> faults;
    for (const int32_t il : layers) {
        const std::string block = "block " + std::to_string(il) + " of architecture '" + architecture() + "' ";
        const auto it = next.seen().find(il);
        if (it == next.seen().end()) {
            faults.push_back(block + "does not call the block hook in llama.cpp, nothing would happen there");
        } else if (!it->second.empty()) {
            faults.push_back(block + "cannot be injected into: " + it->second);
        }
    }
    if (!faults.empty()) {
        throw model_mismatch_error(faults_message(subject + "model '" + parameters.model.path + "'", faults));
    }
}

void engine::attach(const std::string & sidecar_path, bool folded, const std::string & refusal_text) {
    sidecar source = read_sidecar(sidecar_path);
    if (!refusal_text.empty()) {
        set_refusal_text(source.config, refusal_text);
    }
    check_fits(source);
    if (!folded && seqs.size() > 1) {
        throw error("cross-attention that is not folded has one sequence, the context " + std::to_string(seqs.size()));
    }
    prompt_settings next_settings = prompt_settings::of(source);

    std::map<int, ggml_backend_buffer_type_t> bufts; // asking the model builds a graph, so ask once
    const auto place = [&](int il) {
        const auto it = bufts.find(il);
        return it != bufts.end() ? it->second : bufts[il] = llm->select_buft(il);
    };
    const auto n_seq = (int32_t)seqs.size();
    auto next_wrapper = std::make_unique<wrapper>(source, place, n_seq);
    auto next_hook = std::make_unique<block_hook>(next_wrapper.get(), seqs, n_layer());
    auto next_unfolded = folded ? nullptr : std::make_unique<cross_attention_unfolded>(source, place);
    next_hook->unfolded = next_unfolded.get();
    const std::vector<int32_t> & injected = source.config.cross_attn_layers;
    const int32_t il_entry = *std::min_element(injected.begin(), injected.end());
    const int64_t n_rows = (int64_t)limits.hidden_mib * 1024 * 1024 / (n_seq * n_embd() * (int64_t)sizeof(float));
    next_hook->hidden =
        std::make_unique<hidden_cache>(il_entry, n_embd(), std::min<int64_t>(n_rows, n_ctx()), n_seq, place(il_entry));

    std::unique_ptr<answer_taps> next_taps = taps_are_chosen ? nullptr : make_taps(layers_of(source.verdict));
    next_hook->answers = taps_are_chosen ? answer_tensors.get() : next_taps.get();
    std::set<int32_t> layers(source.config.target_layers.begin(), source.config.target_layers.end());
    layers.insert(injected.begin(), injected.end());
    if (source.verdict) {
        layers.insert(source.verdict->prompt_layers.begin(), source.verdict->prompt_layers.end());
        layers.insert(source.verdict->answer_layers.begin(), source.verdict->answer_layers.end());
    }
    try {
        reserve(*next_hook, layers, "sidecar '" + source.path + "' and ");
    } catch (...) {
        restore_hook(hook.get());
        throw;
    }
    reset_all(); // of the wrapper that was there
    hook = std::move(next_hook);
    meta_wrapper = std::move(next_wrapper);
    unfolded = std::move(next_unfolded);
    settings = std::move(next_settings);
    head = std::move(source.verdict);
    if (!taps_are_chosen) {
        answer_tensors = std::move(next_taps);
    }
}

void engine::detach() {
    auto next_hook = taps_are_chosen ? std::make_unique<block_hook>(nullptr, seqs, n_layer()) : nullptr;
    if (next_hook) {
        next_hook->answers = answer_tensors.get();
    }
    restore_hook(next_hook.get());
    reset_all();
    hook = std::move(next_hook);
    meta_wrapper.reset();
    unfolded.reset();
    settings = {};
    head.reset();
    if (!taps_are_chosen) {
        answer_tensors.reset();
    }
}

std::unique_ptr<answer_taps> engine::make_taps(tapped_layers layers) const {
    const auto place = [this](int il) { return llm->select_buft(il); };
    return layers.empty() ? nullptr
                          : std::make_unique<answer_taps>(std::move(layers), n_embd(), (int32_t)seqs.size(), place);
}

void engine::tap_answers(tapped_layers layers) {
    const bool are_chosen = !layers.empty();
    if (!are_chosen) {
        layers = layers_of(head);
    }
    const std::string subject = "taps of answers and ";
    std::set<int32_t> wanted(layers.prompt.begin(), layers.prompt.end());
    wanted.insert(layers.answer.begin(), layers.answer.end());
    if (wanted.size() < std::max(layers.prompt.size(), layers.answer.size())) {
        throw error("the layers to tap name a layer twice");
    }
    if (!wanted.empty() && (*wanted.begin() < 0 || *wanted.rbegin() >= n_layer())) {
        throw model_mismatch_error(
            "the layers to tap go from " + std::to_string(*wanted.begin()) + " to " + std::to_string(*wanted.rbegin()) +
            ", the model has layers 0 to " + std::to_string(n_layer() - 1));
    }
    auto next = make_taps(std::move(layers));
    auto own_hook = hook ? nullptr : std::make_unique<block_hook>(nullptr, seqs, n_layer());
    block_hook & used = hook ? *hook : *own_hook;
    used.answers = next.get();
    try {
        reserve(used, wanted, subject);
    } catch (...) {
        used.answers = answer_tensors.get();
        restore_hook(hook.get());
        throw;
    }
    reset_all();
    if (own_hook) {
        hook = std::move(own_hook);
    }
    answer_tensors = std::move(next);
    taps_are_chosen = are_chosen;
}

// --- prompts ---------------------------------------------------------------------------------------------------------

void engine::require_vocab() const {
    if (llama_vocab_type(vocab()) == LLAMA_VOCAB_TYPE_NONE) { // llama.cpp asserts that there is one
        throw error("the model has no vocabulary, expected a tokenizer in '" + parameters.model.path + "'");
    }
}

std::vector<llama_token> engine::tokenize(const std::string & text, bool add_special, bool parse_special) const {
    require_vocab();
    return with_tokenizer([&] { return common_tokenize(vocab(), text, add_special, parse_special); });
}

std::string engine::detokenize(const std::vector<llama_token> & tokens, bool special) const {
    require_vocab();
    for (const llama_token token : tokens) {
        if (token < 0 || token >= n_vocab()) {
            throw error("token " + std::to_string(token) + " is not in the vocabulary of " + std::to_string(n_vocab()));
        }
    }
    return with_tokenizer([&] { return common_detokenize(vocab(), tokens, special); });
}

std::string engine::piece(llama_token token) const {
    return with_tokenizer([&] { return common_token_to_piece(vocab(), token, /*special =*/false); });
}

std::string engine::name(llama_token token) const {
    return common_token_to_piece(vocab(), token, /*special =*/true);
}

std::string engine::apply_chat_template(const std::vector<chat_message> & messages) const {
    return chat.apply(messages, settings, cancel).text;
}

std::vector<llama_token> engine::tokenize_chat(const std::vector<chat_message> & messages) const {
    require_vocab();
    const chat_text prompt = chat.apply(messages, settings, cancel);
    std::vector<llama_token> tokens = tokenize(prompt.text, /*add_special =*/false, /*parse_special =*/true);
    if (prompt.begins_with_bos) {
        tokens.insert(tokens.begin(), llama_vocab_bos(vocab()));
    }
    return tokens;
}

void engine::check_prompt(const std::vector<llama_token> & tokens) const {
    if (tokens.empty()) {
        throw error("the prompt is empty, expected at least one token");
    }
    for (const llama_token token : tokens) {
        if (token < 0 || token >= n_vocab()) {
            throw error(
                "prompt token " + std::to_string(token) + " is not in the vocabulary of " + std::to_string(n_vocab()));
        }
    }
    if ((int64_t)tokens.size() > n_ctx()) {
        throw context_overflow_error(
            "the prompt has " + std::to_string(tokens.size()) + " tokens, the context " + std::to_string(n_ctx()) +
            " (shorten it, or give a larger -c / n_ctx)");
    }
}

// --- batches ---------------------------------------------------------------------------------------------------------

void engine::fail(int status) const {
    if (status == 2) {
        throw cancelled_error("cancelled");
    }
    if (status == 1) {
        throw context_overflow_error(
            "the context of " + std::to_string(n_ctx()) + " tokens has no room left (give a larger -c / n_ctx)");
    }
    throw decode_error("llama.cpp failed to evaluate a batch (status " + std::to_string(status) + ")");
}

double engine::evaluate(std::vector<batch_part> parts) {
    const auto start = std::chrono::steady_clock::now();
    // llama.cpp puts sequences into one micro-batch where their ids follow each other
    std::sort(
        parts.begin(), parts.end(), [](const batch_part & a, const batch_part & b) { return a.seq->id < b.seq->id; });
    size_t n_tokens = 0;
    for (const batch_part & part : parts) {
        n_tokens += part.n_tokens;
    }
    struct batch_guard {
        llama_batch batch;
        ~batch_guard() { llama_batch_free(batch); }
    } guard{llama_batch_init((int32_t)n_tokens, 0, 1)};
    llama_batch & batch = guard.batch;
    for (const batch_part & part : parts) {
        for (size_t i = 0; i < part.n_tokens; ++i) {
            const auto row = (size_t)batch.n_tokens++;
            batch.token[row] = part.tokens[i];
            batch.pos[row] = part.seq->n_past + (llama_pos)i;
            batch.n_seq_id[row] = 1;
            batch.seq_id[row][0] = part.seq->id;
            // A tapped token must be an output: the last block of many architectures has rows for outputs only.
            batch.logits[row] = part.wanted == outputs::all ||
                                (part.wanted == outputs::last && i + 1 == part.n_tokens) ||
                                batch.pos[row] == part.seq->plan.tap_pos;
        }
        part.seq->logits_row = batch.n_tokens - 1;
        part.seq->unproven = part.seq->unproven || may_overflow(part);
    }
    if (cancel && cancel()) {
        fail(2);
    }
    if (!reserved) {
        set_hook(hook.get());
    }
    if (hook && hook->hidden) {
        hook->hidden->set_mode(parts.front().hidden);
    }
    ++n_evaluated;
    if (const int status = llama_decode(ctx, batch); status != 0) {
        fail(status);
    }
    llama_synchronize(ctx);
    for (const batch_part & part : parts) {
        part.seq->n_past += (int32_t)part.n_tokens;
    }
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

float * engine::logits(const sequence & seq) const {
    return llama_get_logits_ith(ctx, seq.logits_row);
}

// --- injection -------------------------------------------------------------------------------------------------------

std::vector<float> engine::prompt_rows(const sequence & seq) const {
    std::vector<float> rows = meta_wrapper ? tapped(seq) : std::vector<float>();
    if (answer_tensors) {
        const std::vector<float> more = answer_tensors->read_prompt(seq.id);
        rows.insert(rows.end(), more.begin(), more.end());
    }
    return rows;
}

void engine::set_prompt_rows(const sequence & seq, const std::vector<float> & rows) {
    size_t n_activations = rows.size();
    if (answer_tensors) {
        n_activations -= answer_tensors->n_prompt_values();
        answer_tensors->set_prompt(rows.data() + n_activations, seq.id);
    }
    if (meta_wrapper) {
        set_tapped(seq, {rows.begin(), rows.begin() + (std::ptrdiff_t)n_activations});
    }
}

std::vector<float> engine::tapped(const sequence & seq) const {
    return meta_wrapper->activations(seq.id);
}

void engine::set_tapped(const sequence & seq, const std::vector<float> & activations) {
    meta_wrapper->set_activations(activations, seq.id);
}

void engine::encode(sequence & seq, double gain) {
    try {
        meta_wrapper->encode(seq.id);
    } catch (const decode_error &) {
        if (!all_finite(tapped(seq))) { // the base itself has overflowed
            prompts.drop(seq.id);
            seq.unproven = true;
        }
        throw;
    }
    check_reach(seq, gain);
}

void engine::fold(const sequence & seq, const std::vector<float> & tokens, double gain) {
    meta_wrapper->fold(tokens, seq.id);
    check_reach(seq, gain);
}

void engine::check_reach(const sequence & seq, double gain) const {
    if (const double reach = std::abs(gain) * meta_wrapper->reach(seq.id); !(reach < MAX_REACH)) {
        throw decode_error(
            "sidecar '" + meta_wrapper->path() + "': what it injects at gain " + number(gain) + " is up to " +
            number(reach) + ", expected less than " + number(MAX_REACH) +
            ": the base would overflow (huge weights, or a gain that is too large)");
    }
}

bool engine::may_overflow(const batch_part & part) const {
    const token_plan & plan = part.seq->plan;
    return plan.gain != 0.0 && meta_wrapper && std::abs(plan.gain) * meta_wrapper->reach(part.seq->id) > SAFE_REACH &&
           part.seq->n_past + (llama_pos)part.n_tokens > plan.inject_from;
}

// Runs for each token. The cost is negligible next to the sampler's work on the same logits.
void engine::check_logits(sequence & seq, size_t n_tokens) {
    for (size_t i = 0; i < n_tokens; ++i) {
        const float * row = llama_get_logits_ith(ctx, seq.logits_row - (int32_t)i);
        if (are_logits(row, (size_t)n_vocab())) {
            continue;
        }
        seq.unproven = true;
        if (meta_wrapper && seq.plan.gain != 0.0) {
            throw decode_error(
                "sidecar '" + meta_wrapper->path() + "': at gain " + number(seq.plan.gain) +
                " the base overflows: its logits are not finite (huge weights, or a gain that is too large)");
        }
        throw decode_error(
            "model '" + parameters.model.path +
            "': its logits are not finite, without any injection (a damaged file, or activations that overflow)");
    }
    seq.unproven = false;
}

// --- sequences -------------------------------------------------------------------------------------------------------

void engine::reset(sequence & seq) {
    const llama_seq_id id = seq.id;
    mem.clear(seq);
    prompts.drop(id);
    seq = {};
    seq.id = id;
}

void engine::reset_all() {
    const auto is_unproven = [](const sequence & seq) { return seq.unproven; };
    if (meta_wrapper || std::any_of(seqs.begin(), seqs.end(), is_unproven)) {
        mem.clear_data();
    }
    for (sequence & seq : seqs) {
        seq.unproven = false;
        reset(seq);
    }
}

// --- capture ---------------------------------------------------------------------------------------------------------

void engine::start_capture(const capture & cap) {
    if (!hook) { // the base alone has none
        hook = std::make_unique<block_hook>(nullptr, seqs, n_layer());
        set_hook(hook.get());
    }
    for (const auto & [il, tensor] : cap.blocks) {
        const auto it = hook->seen().find(il);
        if (it == hook->seen().end() || !it->second.empty()) {
            throw model_mismatch_error(
                "block " + std::to_string(il) + " of architecture '" + architecture() +
                "' does not call the block hook in llama.cpp, its output cannot be shown");
        }
    }
    hook->set_capture(&cap);
}

void engine::stop_capture() {
    if (meta_wrapper || answer_tensors) {
        hook->set_capture(nullptr);
    } else if (hook) {
        restore_hook(nullptr);
        hook.reset();
    }
}

} // namespace metadeploy
