// A base model with its context and, next to it, a wrapper: loads and attaches them, and evaluates batches.
#pragma once

#include "graph/cross_attention_unfolded.h"
#include "model/answer_taps.h"
#include "model/block_hook.h"
#include "model/prompt_cache.h"
#include "model/sequence.h"
#include "model/sequence_memory.h"
#include "model/wrapper.h"
#include "text/chat_formatter.h"

#include "common.h"
#include "llama-cpp.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace metadeploy {

// Limits of the caches, in MiB.
struct cache_limits {
    int32_t hidden_mib = 256; // hidden states of a prompt, between its passes; a longer prompt gets a full pass 2
    int32_t prefix_mib = 512; // clean keys, values and states of a prompt, to restore if the next one begins alike
};

// of which tokens logits are wanted
enum class outputs { none, last, all };

// Tokens of one sequence that are evaluated in one batch, with those of others.
struct batch_part {
    sequence * seq;
    const llama_token * tokens;
    size_t n_tokens;
    outputs wanted;
    cache_mode hidden; // the same for all parts of a batch
};

// Not thread-safe: one call at a time. Every prompt starts from an empty sequence or from the memory that a clean pass
// over the same tokens left. So nothing that was injected for one prompt or gain can reach another.
class engine {
public:
    // Loads the model that params names, with everything else that llama.cpp's common parameters say.
    // Throws model_load_error.
    explicit engine(common_params params, const cache_limits & limits = {});
    ~engine();
    engine(const engine &) = delete;
    engine & operator=(const engine &) = delete;

    // Attaches a sidecar and detaches the old one, if any; on an error the old one stays. Not folded: for comparison,
    // see cross_attention_unfolded.h. refusal_text: replaces the refusal text of the file, see
    // set_refusal_text; empty keeps it. Throws sidecar_error, model_mismatch_error, error.
    void attach(const std::string & sidecar_path, bool folded = true, const std::string & refusal_text = "");
    void detach();
    const wrapper * meta() const { return meta_wrapper.get(); }

    // From now on, graphs leave the outputs of the layers in answers(), whatever is attached, and no verdicts are
    // computed. Empty lists: only what the verdict head of the sidecar reads, if it has one. Forgets all prompts.
    // Throws model_mismatch_error if there is no such layer, or if the architecture does not show its output.
    void tap_answers(tapped_layers layers);
    const answer_taps * answers() const { return answer_tensors.get(); } // nullptr: nothing is read
    // The verdict head of the attached sidecar; nullptr if it has none, or while other layers are tapped.
    const verdict_head * verdict() const { return head && !taps_are_chosen ? &*head : nullptr; }

    // prompts, and everything else that has to do with text: throws error if the model has no vocabulary
    void require_vocab() const;
    std::vector<llama_token> tokenize(const std::string & text, bool add_special, bool parse_special) const;
    std::string detokenize(const std::vector<llama_token> & tokens, bool special) const;
    std::string piece(llama_token token) const; // control tokens give an empty text
    std::string name(llama_token token) const;  // the same, but control tokens are spelled out
    // Applies the chat template to a conversation, with the settings of the attached wrapper. The text has no BOS.
    std::string apply_chat_template(const std::vector<chat_message> & messages) const;
    std::vector<llama_token> tokenize_chat(const std::vector<chat_message> & messages) const;
    bool has_chat_template() const { return chat.has_template(); }

    // Evaluates one batch. Each sequence's plan says which tokens are injected and tapped. Returns elapsed
    // milliseconds. Throws context_overflow_error, decode_error, cancelled_error, model_load_error (no memory for
    // graphs); the memory of the sequences is then of no use.
    double evaluate(std::vector<batch_part> parts);
    int64_t n_batches() const { return n_evaluated; } // so far
    // n_vocab values for the sequence's last token, if they were wanted
    float * logits(const sequence & seq) const;
    // Call this after a batch with logits of the sequence's last n_tokens tokens. Throws decode_error if these logits
    // are not finite.
    void check_logits(sequence & seq, size_t n_tokens = 1);
    bool context_full(const sequence & seq) const { return seq.n_past >= n_ctx(); }
    // Throws error (empty prompt, bad token), context_overflow_error.
    void check_prompt(const std::vector<llama_token> & tokens) const;

    // Everything that pass 1 leaves of a prompt's last token: the wrapper's activations, then the rows for a verdict.
    std::vector<float> prompt_rows(const sequence & seq) const;
    void set_prompt_rows(const sequence & seq, const std::vector<float> & rows);

    // These four need a wrapper. Activations are n_target rows of n_embd.
    std::vector<float> tapped(const sequence & seq) const;
    void set_tapped(const sequence & seq, const std::vector<float> & activations);
    // Set the cognitive tokens that are injected into a sequence from its next token on, at this gain: encoded from its
    // taps, or the given ones. Throw decode_error.
    void encode(sequence & seq, double gain);
    void fold(const sequence & seq, const std::vector<float> & tokens, double gain);

    // of the context, by id; each has n_ctx() tokens of its own
    std::vector<sequence> & sequences() { return seqs; }
    sequence_memory & memory() { return mem; }
    prompt_cache & cache() { return prompts; }
    hidden_cache * hidden() const { return hook ? hook->hidden.get() : nullptr; } // nullptr without a wrapper
    void reset(sequence & seq); // clears its memory and forgets everything about it

    // From start_capture to stop_capture, what blocks compute is copied to the tensors of cap, which must live that
    // long. start_capture throws model_mismatch_error if the architecture does not show one of its blocks; call
    // stop_capture then as well.
    void start_capture(const capture & cap);
    void stop_capture();

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
    void check_fits(const sidecar & source) const;
    std::unique_ptr<answer_taps> make_taps(tapped_layers layers) const; // nullptr without layers
    // Reserves the largest graphs with this hook. Throws model_mismatch_error that begins with subject if the
    // architecture does not show it one of the layers, or shows one that cannot be used.
    void reserve(block_hook & next, const std::set<int32_t> & layers, const std::string & subject);
    std::string architecture() const;
    void set_hook(block_hook * next);
    void restore_hook(block_hook * previous) noexcept;
    void reset_all();
    void check_reach(const sequence & seq, double gain) const;
    bool may_overflow(const batch_part & part) const;
    [[noreturn]] void fail(int status) const;

    common_params parameters;
    const cache_limits limits;
    common_init_result_ptr loaded;
    llama_model * llm = nullptr;
    llama_context * ctx = nullptr;
    chat_formatter chat;
    prompt_settings settings;
    std::unique_ptr<wrapper> meta_wrapper;
    std::vector<sequence> seqs; // by id
    sequence_memory mem;
    prompt_cache prompts;
    int64_t n_evaluated = 0;
    std::unique_ptr<cross_attention_unfolded> unfolded; // only for comparison, else null
    std::optional<verdict_head> head;
    std::unique_ptr<answer_taps> answer_tensors;
    bool taps_are_chosen = false; // by tap_answers, not by the head
    std::unique_ptr<block_hook> hook;
    bool reserved = true; // the context has memory for graphs with this hook; without, llama.cpp must not build any
};

} // namespace metadeploy
