#include "text/refusal.h"

#include "errors.h"
#include "log.h"
#include "text/abstention.h"

#include "common.h"
#include "llama-cpp.h"

#include <algorithm>

namespace metadeploy {

void check_declines(const wrapper_config & config, const std::string & subject) {
    if (!config.declines()) {
        throw error(subject + ": a wrapper of kind '" + config.kind + "' has no refusal, expected a doubter");
    }
}

void set_refusal_text(wrapper_config & config, const std::string & text) {
    const std::string subject = "the refusal text '" + text + "'";
    check_declines(config, subject);
    if (const std::string fault = refusal_text_fault(text); !fault.empty()) {
        throw error(subject + " " + fault);
    }
    if (text == config.refusal_text) {
        return;
    }
    config.refusal_text = text;
    config.refusal_token_ids.clear();
    config.refusal_bias = 0.0f;
}

std::vector<llama_token> tokens_after(const llama_vocab * vocab, const std::string & before, const std::string & text) {
    const auto tokenize = [&](const std::string & whole) {
        return common_tokenize(vocab, whole, /*add_special =*/false, /*parse_special =*/true);
    };
    const std::vector<llama_token> head = tokenize(before);
    std::vector<llama_token> whole = tokenize(before + text);
    if (whole.size() < head.size() || !std::equal(head.begin(), head.end(), whole.begin())) {
        return tokenize(text); // a token spans the boundary between the two
    }
    whole.erase(whole.begin(), whole.begin() + (std::ptrdiff_t)head.size());
    return whole;
}

std::vector<llama_token> refusal_tokens(
    const std::string & model_path, const prompt_settings & settings, const std::string & text) {
    const std::string subject = "model '" + model_path + "'";
    llama_model_params params = llama_model_default_params();
    params.vocab_only = true;
    log_capture log;
    const llama_model_ptr model(llama_model_load_from_file(model_path.c_str(), params));
    if (!model) {
        throw model_load_error(subject + ": llama.cpp cannot load it: " + log.first_line("unknown reason"));
    }
    const llama_vocab * vocab = llama_model_get_vocab(model.get());
    if (llama_vocab_type(vocab) == LLAMA_VOCAB_TYPE_NONE) {
        throw error(subject + ": has no vocabulary, expected one to tokenize the refusal");
    }
    common_params template_params;
    template_params.use_jinja = true;
    const chat_formatter chat(model.get(), template_params);
    std::string before;
    if (chat.has_template()) {
        const std::string prompt = chat.apply({{"user", "?"}}, settings, /*cancel =*/nullptr).text;
        const std::vector<llama_token> tokens = common_tokenize(vocab, prompt, false, true);
        before = tokens.empty() ? "" : common_detokenize(vocab, {tokens.back()}, /*special =*/true);
    }
    std::vector<llama_token> tokens = tokens_after(vocab, before, text);
    if (tokens.empty()) {
        throw error(subject + ": makes no token of the refusal '" + text + "', expected at least one");
    }
    return tokens;
}

} // namespace metadeploy
