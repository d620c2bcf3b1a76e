// A base model with its context and, beside it, a wrapper: what evaluates batches, and remembers what they leave.
#pragma once

#include "graph/cross_attention_unfolded.h"
#include "model/block_hook.h"
#include "model/doubt_reading.h"
#include "model/wrapper.h"
#include "text/chat_formatter.h"

#include "common.h"
#include "llama-cpp.h"

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace metadeploy {

enum class pass2_kind {
    none, // nothing is injected
    tail, // from the lowest block that is injected into
    full  // all blocks
};

const char * pass2_kind_name(pass2_kind kind);

struct timings {
    double pass1_ms = 0.0;  // clean pass over the prompt
    double encode_ms = 0.0; // activations to cognitive tokens to tables
    double pass2_ms = 0.0;  // injected pass; 0 where nothing is injected
    double decode_ms = 0.0; // the answer, sampling included
    pass2_kind pass2 = pass2_kind::none;
    int64_t hidden_bytes = 0; // hidden states that pass 1 has kept for pass 2
    int32_t n_prompt = 0;
    int32_t n_reused = 0; // tokens of the prompt that pass 1 need not go through, as the last prompt began with them
    int32_t n_generated = 0;
    int32_t n_refreshed = 0; // times that cognitive tokens were made anew while the answer grew
};

// How much may be kept so that nothing is computed twice, in MiB.
struct cache_limits {
    int32_t hidden_mib = 256; // hidden states of a prompt, between its passes; a longer prompt gets a full pass 2
    int32_t prefix_mib = 512; // clean keys, values and states of a prompt, for the next one that begins alike
};

struct injection {
    bool on = true;    // false: the base alone
    double gain = 1.0; // 0: the base alone, exactly
    injection_schedule schedule = {};
    std::optional<host_tensor> tokens =
        {}; // cognitive tokens [n_cog, n_embd], held throughout; none: made of the prompt
};

// of which tokens logits are wanted
enum class outputs { none, last, all };

// Tokens of one sequence that are evaluated in one batch, with those of others.
struct batch_part {
    sequence * seq;
    const llama_token * tokens;
    size_t n_tokens;
    outputs wanted;
    entry_use entry; // the same for all parts of a batch
};

class prompt_passes;

// Not thread-safe: one call at a time. Every prompt starts from an empty sequence or from what a clean pass over the
// same tokens has left, so nothing that was injected under one prompt or gain can serve another.
class engine {
public:
    // Loads the model that params names, with everything else that llama.cpp's common parameters say.
    // Throws model_load_error.
    explicit engine(common_params params, const cache_limits & limits = {});
    ~engine();
    engine(const engine &) = delete;
    engine & operator=(const engine &) = delete;

    // Puts a sidecar in place of the one that is there, if any; on an error the old one stays. Not folded: for
    // comparison, see unfolded.h. refusal_text: replaces the refusal text of the file, see set_refusal_text; empty
    // keeps it. Throws sidecar_error, model_mismatch_error, error.
    void attach(const std::string & sidecar_path, bool folded = true, const std::string & refusal_text = "");
    void detach();
    const wrapper * meta() const { return meta_wrapper.get(); }

    // prompts, and everything else that has to do with text: throws error where the model has no vocabulary
    void require_vocab() const;
    std::vector<llama_token> tokenize(const std::string & text, bool add_special, bool parse_special) const;
    std::string detokenize(const std::vector<llama_token> & tokens, bool special) const;
    std::string piece(llama_token token) const; // control tokens give an empty text
    std::string name(llama_token token) const;  // the same, but control tokens are spelled out
    // Applies the chat template to a conversation, with the settings of the attached wrapper. The text has no BOS.
    std::string apply_chat_template(const std::vector<chat_message> & messages) const;
    std::vector<llama_token> tokenize_chat(const std::vector<chat_message> & messages) const;
    bool has_chat_template() const { return chat.has_template(); }

    // What becomes of the tokens of a batch the plans of their sequences say. Returns milliseconds.
    // Throws context_overflow_error, decode_error, cancelled_error, model_load_error (no memory for graphs); the
    // sequences then hold nothing of use.
    double evaluate(std::vector<batch_part> parts);
    void run(prompt_passes & passes);           // to their end, nothing else in between
    float * logits(const sequence & seq) const; // n_vocab values for its last token, if they were wanted
    // Throws error where it contradicts itself or is out of range, model_mismatch_error where its tokens are of another
    // wrapper.
    void check(const injection & inject) const;
    // whether this injection changes anything; throws error where the gain is no number
    bool injects(const injection & inject) const;
    std::vector<float> tapped(const sequence & seq) const; // n_target rows of n_embd
    // Cognitive tokens of these activations hold from the sequence's next token on. Throws decode_error.
    void renew(sequence & seq, const std::vector<float> & activations);
    // Call this after a batch with logits of the sequence's last n_tokens tokens. Throws decode_error if these logits
    // are not finite.
    void check_logits(sequence & seq, size_t n_tokens = 1);
    // Throws error that begins with subject where the attached wrapper was not trained to decline.
    void check_declines(const std::string & subject) const;
    // What those logits say of a refusal. Nothing without a wrapper that declines, or where neither it nor the
    // vocabulary tells what token a refusal begins with.
    std::optional<doubt_reading> doubt_after(const sequence & seq, llama_token last_prompt_token) const;
    bool context_full(const sequence & seq) const { return seq.n_past >= n_ctx(); }
    bool has_state() const;                           // memory moves on with each token and cannot step back
    int64_t n_batches() const { return n_evaluated; } // so far
    // How many tokens of what has been kept a prompt can go on from; whole: may be all of its own.
    size_t n_reusable(const kept_prompt & kept, const std::vector<llama_token> & tokens, bool whole) const;

    // of the context, by id; each has n_ctx() tokens of its own
    std::vector<sequence> & sequences() { return seqs; }

    // What is computed, for looking at, in the first sequence. Rows of n_embd (or n_vocab) values, row after row.
    std::vector<float> activations(const std::vector<llama_token> & tokens);
    std::vector<float> cognitive_tokens(const std::vector<llama_token> & tokens);
    std::vector<float> all_logits(const std::vector<llama_token> & tokens, const injection & inject);
    std::vector<float> layer_outputs(
        const std::vector<llama_token> & tokens, const std::vector<int32_t> & layers, const injection & inject);
    double doubt(const std::vector<llama_token> & tokens, double gain);
    // for each cross-attention layer and token: n_head rows of n_cog weights
    std::vector<float> cognitive_attention(const std::vector<llama_token> & tokens, double gain);

    llama_context * context() const { return ctx; }
    llama_model * model() const { return llm; }
    const llama_vocab * vocab() const { return llama_model_get_vocab(llm); }
    const common_params & params() const { return parameters; }
    int32_t n_ctx() const { return (int32_t)llama_n_ctx_seq(ctx); } // of one sequence
    int32_t n_layer() const { return llama_model_n_layer(llm); }
    int32_t n_embd() const { return llama_model_n_embd(llm); }
    int32_t n_vocab() const { return llama_vocab_n_tokens(vocab()); }

    // Asked often while tokens are evaluated; true ends the call with cancelled_error. Must not throw.
    std::function<bool()> cancel;

private:
    friend class prompt_passes;

    void check_prompt(const std::vector<llama_token> & tokens) const;
    void check_fits(const sidecar & source) const;
    std::string architecture() const;
    std::optional<llama_token> refusal_token(llama_token last_prompt_token) const;
    void set_hook(seam * hook);
    void put_back(seam * previous) noexcept;
    token_plan injected_from(const std::vector<llama_token> & tokens, const injection & inject) const;
    // Sets what is injected into a sequence from its next token on, at this gain: cognitive tokens that are encoded
    // from its taps, or the given ones. Throws decode_error.
    void encode(sequence & seq, double gain);
    void fold(sequence & seq, const std::vector<float> & tokens, double gain);
    void check_reach(const sequence & seq, double gain) const;
    bool may_overflow(const batch_part & part) const;
    void capture_pass(const std::vector<llama_token> & tokens, const injection & inject, const capture & cap);
    [[noreturn]] void fail(int status) const;

    // engine_memory.cpp
    size_t prefix_bytes() const; // most that is kept of one sequence
    bool memory_intact(const sequence & seq) const;
    void clear_memory(sequence & seq);
    void purge(sequence & seq);
    void forget(sequence & seq);
    void forget_all();
    std::vector<uint8_t> memory_of(const sequence & seq) const;
    void set_memory(sequence & seq, const std::vector<uint8_t> & bytes);
    std::vector<uint8_t> state_of(const sequence & seq) const;
    bool set_state(const sequence & seq, const std::vector<uint8_t> & bytes);
    bool step_back(sequence & seq, size_t first);
    void copy_memory(const sequence & from, sequence & to);
    std::vector<size_t> marks_for(const kept_prompt & kept, const std::vector<llama_token> & tokens) const;
    void keep_mark(sequence & seq);
    void make_room(std::vector<kept_state> & marks, size_t n_bytes) const;
    size_t restore_prefix(sequence & seq, const std::vector<llama_token> & tokens, bool whole);
    void keep_prefix(sequence & seq, const std::vector<llama_token> & tokens, size_t n_tokens, bool tapped);

    common_params parameters;
    const cache_limits limits;
    common_init_result_ptr loaded;
    llama_model * llm = nullptr;
    llama_context * ctx = nullptr;
    chat_formatter chat;
    prompt_settings settings;
    std::unique_ptr<wrapper> meta_wrapper;
    std::vector<sequence> seqs; // by id
    int64_t n_evaluated = 0;
    std::unique_ptr<unfolded> unfolded_ca; // none, but for comparison
    std::unique_ptr<seam> hook;
    bool reserved = true; // the context has memory for graphs with this hook; without, llama.cpp must not build any
};

} // namespace metadeploy
