// What a wrapper declines with: another text in place of its own, and the tokens that it begins with.
#pragma once

#include "runtime/prompt.h"
#include "sidecar/sidecar.h"

#include "llama.h"

#include <string>
#include <vector>

namespace metadeploy {

// Lets a wrapper decline with this text, for one whose file does not say the one that it was trained on. The tokens and
// the bias in the file are those of its own text, so another text goes without. Throws error where the wrapper has no
// refusal, or the text cannot be one.
void set_refusal_text(wrapper_config & config, const std::string & text);

// Tokens of a text as it stands after another one, and by itself where one token would span the two: many tokenizers
// give the first word of a text another token than the same word after a line break.
std::vector<llama_token> tokens_after(const llama_vocab * vocab, const std::string & before, const std::string & text);

// Tokens of a refusal as it stands where an answer begins, by a base's own tokenizer and chat template (by itself where
// it has no template). Of the base only the vocabulary is loaded. Throws model_load_error; error where there is no
// vocabulary.
std::vector<llama_token> refusal_tokens(
    const std::string & model_path, const prompt_settings & settings, const std::string & text);

} // namespace metadeploy
