// The refusal of a wrapper: replaces its text, and tokenizes refusals.
#pragma once

#include "sidecar/sidecar.h"
#include "text/chat_formatter.h"

#include "llama.h"

#include <string>
#include <vector>

namespace metadeploy {

// Throws error that begins with subject if a wrapper was not trained to decline.
void check_declines(const wrapper_config & config, const std::string & subject);

// Sets the refusal text of a wrapper whose file does not have the text that it was trained on. If the text differs from
// the file's, the tokens and the bias in the file are dropped, because they belong to its own text. Throws error if the
// wrapper has no refusal, or if the text cannot be one.
void set_refusal_text(wrapper_config & config, const std::string & text);

// Tokenizes a text after another one: many tokenizers give a word at the start of a text another token than the same
// word after a line break. If one token would span the two, the text is tokenized by itself.
std::vector<llama_token> tokens_after(const llama_vocab * vocab, const std::string & before, const std::string & text);

// Returns the tokens of a refusal at the start of an answer, by the base's own tokenizer and chat template. If the base
// has no template, the refusal is tokenized by itself. Only the base's vocabulary is loaded. Throws model_load_error;
// error if there is no vocabulary.
std::vector<llama_token> refusal_tokens(
    const std::string & model_path, const prompt_settings & settings, const std::string & text);

} // namespace metadeploy
