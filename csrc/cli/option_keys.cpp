#include "cli/option_keys.h"

#include <algorithm>
#include <cctype>
#include <cstddef>
#include <numeric>
#include <vector>

namespace metadeploy {

namespace {

// options of this program, of MetaLlama, of OpenAI's API and of transformers, without "_"
const char * const OPTIONS[] = {
    // the injection
    "goal",
    "metagoal",
    "goaltext",
    "goalanchor",
    "anchor",
    "metagain",
    "metadecay",
    "metawindow",
    "metarefresh",
    "schedule",
    "decay",
    "window",
    "refresh",
    "dynamic",
    "inject",
    "injection",
    "injectfrom",
    "nometa",
    "meta",
    "sidecar",
    "cognitivetokens",
    "threshold",
    "doubtthreshold",
    "refusaltext",
    "compare",
    "raw",
    "layers",
    "targetlayers",
    "crossattnlayers",
    // the input of the model
    "system",
    "systemprompt",
    "systemmessage",
    "answersuffix",
    "inprefix",
    "insuffix",
    "chattemplate",
    "chattemplatekwargs",
    "addgenerationprompt",
    "enablethinking",
    "thinking",
    "reasoning",
    "reasoningeffort",
    "tools",
    "toolchoice",
    "functions",
    "functioncall",
    "paralleltoolcalls",
    "responseformat",
    "grammar",
    "jsonschema",
    // how long, and how it is sampled
    "n",
    "npredict",
    "ngen",
    "maxtokens",
    "maxnewtokens",
    "maxcompletiontokens",
    "maxlength",
    "mintokens",
    "minnewtokens",
    "minlength",
    "temp",
    "temperature",
    "topk",
    "topp",
    "minp",
    "typicalp",
    "typical",
    "topnsigma",
    "tfsz",
    "seed",
    "stop",
    "stopsequences",
    "stopstrings",
    "stopwords",
    "antiprompt",
    "reverseprompt",
    "repeatpenalty",
    "repetitionpenalty",
    "presencepenalty",
    "frequencypenalty",
    "lengthpenalty",
    "repeatlastn",
    "penaltylastn",
    "logitbias",
    "logprobs",
    "toplogprobs",
    "nprobs",
    "bestof",
    "echo",
    "suffix",
    "stream",
    "streamoptions",
    "samplers",
    "sampling",
    "samplingparams",
    "dosample",
    "numbeams",
    "mirostat",
    "mirostattau",
    "mirostateta",
    "xtcprobability",
    "xtcthreshold",
    "drymultiplier",
    "drybase",
    "dynatemprange",
    "ignoreeos",
    "cacheprompt",
    "lora",
    "cancel",
};

std::string plain(const std::string & key) {
    std::string name;
    for (const char c : key) {
        if (std::isalnum((unsigned char)c)) {
            name += (char)std::tolower((unsigned char)c);
        }
    }
    return name;
}

// letters to put in, to take out and to change
size_t distance(const std::string & a, const std::string & b) {
    std::vector<size_t> row(b.size() + 1);
    std::iota(row.begin(), row.end(), size_t{0});
    for (size_t i = 1; i <= a.size(); ++i) {
        size_t before = row[0];
        row[0] = i;
        for (size_t j = 1; j <= b.size(); ++j) {
            const size_t changed = before + (a[i - 1] == b[j - 1] ? 0 : 1);
            before = row[j];
            row[j] = std::min({changed, row[j] + 1, row[j - 1] + 1});
        }
    }
    return row[b.size()];
}

} // namespace

std::string option_meant(const std::string & key) {
    const std::string name = plain(key);
    for (const std::string option : OPTIONS) {
        // short names are too close to the names of data: "topic" to "top_k"
        const size_t slips = option.size() >= 9 ? 2 : option.size() >= 7 ? 1 : 0;
        if (name == option || (slips > 0 && distance(name, option) <= slips)) {
            return option;
        }
    }
    return "";
}

} // namespace metadeploy
