// The command line of llama-meta-generate: llama.cpp's own flags, and ours.
#pragma once

#include "generation/verdict_policy.h"
#include "model/engine.h"

#include "common.h"

#include <stdexcept>
#include <string>

namespace metadeploy {

struct cli_args {
    common_params common;         // what llama.cpp's parser made of its flags
    std::string meta;             // --meta: sidecar
    double gain = 1.0;            // --meta-gain
    double doubt_threshold = 0.5; // --doubt-threshold
    verdict_policy policy;        // --max-error, --max-p-wrong, --on-doubt
    injection_schedule schedule;  // --meta-decay, --meta-window, --meta-refresh
    std::string goal;             // --meta-goal: whose cognitive tokens are held, none if empty
    std::string layers;           // META_LAYERS: the layers that the sidecar must have, any if empty
    std::string refusal_text;     // --refusal-text: the text that the wrapper declines with, its file's if empty
    cache_limits limits;          // --hidden-cache, --prefix-cache
    bool no_meta = false;         // --no-meta: the base alone
    bool compare = false;         // --compare: base and wrapper
    bool raw = false;             // --raw: no chat template
    bool json = false;            // --json
    bool verbose = false;         // -v: statistics on stderr
    std::string prompts;          // --prompts: a file of prompts
    std::string output;           // --output: where their results go, stdout if empty
    std::string template_text;    // --chat-template, unchanged: common.chat_template is the one that is used
    std::string template_file;    // --chat-template-file
    bool nul_separated = false;   // prompts and results are text between NUL bytes (META_PROMPTS, META_OUT)
};

// Ends with a usage message and exit code 2.
struct usage_error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// Flags win over environment variables. Prints the help and exits where asked to. Throws usage_error.
cli_args parse_args(int argc, char ** argv);

} // namespace metadeploy
