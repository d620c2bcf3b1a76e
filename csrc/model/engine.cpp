#include "model/engine.h"

#include "errors.h"
#include "log.h"
#include "text/refusal.h"

#include "llama-cparams.h"
#include "llama-ext.h"
#include "llama-model.h"

#include <algorithm>
#include <filesystem>
#include <set>

namespace metadeploy {

namespace {

common_init_result_ptr load(common_params & params) {
    const std::string subject = "model '" + params.model.path + "'";
    std::error_code ec;
    if (std::filesystem::is_directory(std::filesystem::u8path(params.model.path), ec)) {
        throw model_load_error(subject + ": is a directory, expected a GGUF");
    }
    if (!std::filesystem::is_regular_file(std::filesystem::u8path(params.model.path), ec)) {
        throw model_load_error(subject + ": no such file, expected a GGUF");
    }
    // llama.cpp asserts these, which would end the process
    for (const int n_threads : {params.cpuparams.n_threads, params.cpuparams_batch.n_threads}) {
        if (n_threads < 1 || n_threads > GGML_MAX_N_THREADS) {
            throw option_error(
                "the number of threads is " + std::to_string(n_threads) + ", expected 1 to " +
                std::to_string(GGML_MAX_N_THREADS));
        }
    }
    if (params.n_batch < 1 || params.n_ubatch < 1 || params.n_ctx < 0) {
        throw option_error(
            "sizes of context, batch and micro-batch are " + std::to_string(params.n_ctx) + ", " +
            std::to_string(params.n_batch) + " and " + std::to_string(params.n_ubatch) +
            ", expected at least 0, 1 and 1");
    }
    if (params.n_parallel < 1 || params.n_parallel > LLAMA_MAX_SEQ) {
        throw option_error(
            "the number of sequences is " + std::to_string(params.n_parallel) + ", expected 1 to " +
            std::to_string(LLAMA_MAX_SEQ));
    }
    if (params.n_batch < params.n_parallel) { // llama.cpp asserts it
        throw option_error(
            std::to_string(params.n_parallel) + " sequences need a batch of as many tokens, it has " +
            std::to_string(params.n_batch) + " (give a larger -b / n_batch)");
    }
    if (!params.chat_template.empty()) {
        chat_template(params.chat_template, params.use_jinja); // checked before the slow load
    }
    // each sequence has cells of its own, as many as it would have alone
    params.kv_unified = false;
    const int64_t n_ctx = (params.n_ctx + 255LL) / 256 * 256 * params.n_parallel;
    if (n_ctx > INT32_MAX) {
        throw option_error(
            "a context of " + std::to_string(params.n_ctx) + " tokens for each of " +
            std::to_string(params.n_parallel) + " sequences is too large, expected at most " +
            std::to_string(INT32_MAX) + " together");
    }
    params.n_ctx = (int32_t)n_ctx;
    log_capture log;
    common_init_result_ptr result;
    try {
        result = common_init_from_params(params);
    } catch (const std::exception & e) {
        throw model_load_error(subject + ": " + e.what());
    }
    if (!result || !result->model()) {
        const std::string reason = log.first_line("unknown reason");
        const bool is_sidecar =
            reason.find("'meta-spider'") != std::string::npos || reason.find("'daimon'") != std::string::npos;
        throw model_load_error(
            subject + ": llama.cpp cannot load it: " + reason +
            (is_sidecar ? " (a sidecar, expected the base that it runs beside)" : ""));
    }
    if (!result->context()) {
        throw model_load_error(
            subject + ": no context for it: " + log.first_line("out of memory? (a smaller -c / n_ctx needs less)"));
    }
    if (!llama_model_has_decoder(result->model()) || llama_model_has_encoder(result->model()) ||
        !llama_get_memory(result->context())) {
        throw model_load_error(subject + ": not a decoder-only language model, expected one that generates text");
    }
    return result;
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

} // namespace

engine::engine(common_params params, const cache_limits & limits)
    : parameters(std::move(params)),
      limits(limits),
      loaded(load(parameters)),
      llm(loaded->model()),
      ctx(loaded->context()),
      chat(llm, parameters),
      seqs((size_t)parameters.n_parallel) {
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
    for (const int32_t token : config.refusal_token_ids) {
        if (token >= n_vocab()) {
            faults.push_back(
                "has refusal token " + std::to_string(token) + ", the model has a vocabulary of " +
                std::to_string(n_vocab()) + " (wrong base model?)");
            break;
        }
    }
    // these call the seam inside a block, before the residual is added: what it hands over is not the block's output
    static const std::set<std::string> odd_seam = {"nemotron_h", "nemotron_h_moe"};
    if (const std::string arch = architecture(); odd_seam.count(arch) != 0) {
        faults.push_back("cannot meet: architecture '" + arch + "' has its seam inside the block, not at its output");
    }
    if (!faults.empty()) {
        throw model_mismatch_error(
            faults_message("sidecar '" + source.path + "' and model '" + parameters.model.path + "'", faults));
    }
}

void engine::set_hook(seam * next) {
    reserved = false;
    try {
        llama_set_block_hook(ctx, next);
        reserved = true;
    } catch (const std::exception & e) {
        throw model_load_error("model '" + parameters.model.path + "': no memory for its graphs: " + e.what());
    }
}

// The hook that was there before, or none. Where there is no memory for its graphs, the next batch tries again.
void engine::put_back(seam * previous) noexcept {
    try {
        set_hook(previous);
    } catch (const std::exception &) { // the error that led here, if any, says more
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
    auto next_hook = std::make_unique<seam>(next_wrapper.get(), seqs, n_layer());
    auto next_unfolded = folded ? nullptr : std::make_unique<unfolded>(source, place);
    next_hook->unfolded_ca = next_unfolded.get();
    const std::vector<int32_t> & injected = source.config.cross_attn_layers;
    const int32_t il_entry = *std::min_element(injected.begin(), injected.end());
    const int64_t n_rows = (int64_t)limits.hidden_mib * 1024 * 1024 / (n_seq * n_embd() * (int64_t)sizeof(float));
    next_hook->entry =
        std::make_unique<entry_block>(il_entry, n_embd(), std::min<int64_t>(n_rows, n_ctx()), n_seq, place(il_entry));

    // reserve the largest graph there can be, and see on the way which blocks the architecture shows
    next_hook->largest = true;
    std::vector<std::string> faults;
    try {
        set_hook(next_hook.get());
        std::set<int32_t> wanted(source.config.target_layers.begin(), source.config.target_layers.end());
        wanted.insert(source.config.cross_attn_layers.begin(), source.config.cross_attn_layers.end());
        for (const int32_t il : wanted) {
            const auto it = next_hook->seen().find(il);
            if (it == next_hook->seen().end()) {
                faults.push_back(
                    "block " + std::to_string(il) + " of architecture '" + architecture() +
                    "' has no seam in llama.cpp, the wrapper would do nothing there");
            } else if (!it->second.empty()) {
                faults.push_back(
                    "block " + std::to_string(il) + " of architecture '" + architecture() +
                    "' cannot be injected into: " + it->second);
            }
        }
        if (!faults.empty()) {
            throw model_mismatch_error(
                faults_message("sidecar '" + source.path + "' and model '" + parameters.model.path + "'", faults));
        }
    } catch (...) {
        put_back(hook.get());
        throw;
    }
    next_hook->largest = false;
    forget_all(); // of the wrapper that was there
    hook = std::move(next_hook);
    meta_wrapper = std::move(next_wrapper);
    unfolded_ca = std::move(next_unfolded);
    settings = std::move(next_settings);
}

void engine::detach() {
    put_back(nullptr);
    forget_all();
    hook.reset();
    meta_wrapper.reset();
    unfolded_ca.reset();
    settings = {};
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

} // namespace metadeploy
