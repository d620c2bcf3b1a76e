#include "cli/args.h"

#include "build_info.h"
#include "cli/constraints.h"
#include "cli/numbers.h"
#include "cli/text_file.h"
#include "cli/values.h"
#include "common/log.h"
#include "cpu_threads.h"
#include "errors.h"

#include "arg.h"
#include "llama-cparams.h"

#include <algorithm>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <set>
#include <tuple>
#include <utility>
#include <vector>

namespace metadeploy {

namespace {

[[noreturn]] void print_version() {
    const bool written = std::fputs(describe_build().c_str(), stdout) >= 0 && std::fflush(stdout) == 0;
    if (!written) {
        std::perror("error: stdout cannot be written");
    }
    std::exit(written ? 0 : 1);
}

const char * env(const char * name) {
    const char * value = std::getenv(name);
    return value && *value ? value : nullptr;
}

bool parse_switch(const std::string & text, const std::string & source) {
    for (const char * word : {"1", "true", "on", "yes"}) {
        if (text == word) {
            return true;
        }
    }
    for (const char * word : {"0", "false", "off", "no"}) {
        if (text == word) {
            return false;
        }
    }
    throw usage_error(source + " is '" + text + "', expected 1 or 0");
}

// llama.cpp's parser must not read what we have read.
void unset_env(const char * name) {
#ifdef _WIN32
    _putenv_s(name, "");
#else
    unsetenv(name);
#endif
}

// Reads the file of a chat template, or returns the text.
std::string chat_template_of(const cli_args & args, const std::string & sources) {
    const std::string & file = args.template_file;
    if (!args.template_text.empty() && !file.empty()) {
        throw usage_error("give either the text or the file of a chat template: " + sources);
    }
    if (file.empty()) {
        return args.template_text;
    }
    const std::string subject = "chat template file '" + file + "'";
    const std::string content = check_text(read_bytes(file, subject), subject);
    if (content.find_first_not_of(" \t\r\n") == std::string::npos) {
        throw error(subject + " is empty, expected Jinja text");
    }
    return content;
}

// a value with the flag or variable that it comes from
struct given {
    std::string text;
    std::string source;
};

using parse_function = void (*)(cli_args & args, const given & value);

// One of our flags. Variables set the same as the flag, which wins over them; the first of several wins.
struct own_flag {
    std::vector<const char *> names; // the long one last
    std::vector<const char *> env;
    const char * metavar;       // nullptr: the flag takes no value, and its variables are 1 or 0
    parse_function parse;       // nullptr: llama.cpp parses the flag
    const char * help;          // its lines; {env} stands for the names of the variables. nullptr: not listed
    bool needs_wrapper = false; // means nothing for the base alone
};

constexpr bool NEEDS_WRAPPER = true;

const std::vector<own_flag> OWN_FLAGS = {
    {{"--meta"},
     {"LLAMA_ARG_META", "META_SIDECAR"},
     "FNAME",
     [](cli_args & args, const given & value) { args.meta = value.text; },
     "sidecar GGUF of a trained wrapper, made by `metadeploy export`\n"
     "(env: {env})"},
    {{"--meta-gain"},
     {"LLAMA_ARG_META_GAIN", "META_GAIN"},
     "F",
     [](cli_args & args, const given & value) { args.gain = parse_gain(value.text, value.source); },
     "strength of the injection (default: 1.0, 0 = the base exactly)\n"
     "(env: {env})"},
    {{"--meta-decay"},
     {"LLAMA_ARG_META_DECAY"},
     "FLOOR,TAU",
     [](cli_args & args, const given & value) { set_decay(args.schedule, value.text, value.source); },
     "weaken the injection over an answer: its strength falls from 1 to FLOOR, and has\n"
     "covered all but 1/e of the way after TAU tokens. 0.3,16 is usual\n"
     "(env: {env})",
     NEEDS_WRAPPER},
    {{"--meta-window"},
     {"LLAMA_ARG_META_WINDOW"},
     "N",
     [](cli_args & args, const given & value) { set_window(args.schedule, value.text, value.source); },
     "inject into the prompt and the first N tokens of an answer only\n"
     "(env: {env})",
     NEEDS_WRAPPER},
    {{"--meta-refresh"},
     {"LLAMA_ARG_META_REFRESH"},
     "COSINE,MIN,MAX",
     [](cli_args & args, const given & value) { set_refresh(args.schedule, value.text, value.source); },
     "recompute the cognitive tokens while an answer grows, if the base's activations\n"
     "have changed: if their cosine with the last encoded ones is below COSINE. Compares\n"
     "MIN tokens after an encoding, then less and less often; recomputes after MAX\n"
     "tokens in any case. 0.5,3,20 is usual. Each answer needs the memory of a second\n"
     "context (env: {env};\n"
     "META_DYNAMIC=1 with META_THRESHOLD=T is T,3,20)",
     NEEDS_WRAPPER},
    {{"--meta-goal"},
     {"LLAMA_ARG_META_GOAL", "META_ANCHOR"},
     "TEXT",
     [](cli_args & args, const given & value) { args.goal = value.text; },
     "encode this text, without chat template, and inject its cognitive tokens instead\n"
     "of the prompt's own. Wrappers of kind goal_anchor need it\n"
     "(env: {env})",
     NEEDS_WRAPPER},
    {{"--doubt-threshold"},
     {"LLAMA_ARG_DOUBT_THRESHOLD"},
     "T",
     [](cli_args & args, const given & value) { args.doubt_threshold = parse_threshold(value.text, value.source); },
     "decline if the doubt is T or more, from 0 (always) to 1 (never)\n"
     "(default: 0.5, as the sidecar is calibrated; env: {env})",
     NEEDS_WRAPPER},
    {{"--max-error"},
     {"LLAMA_ARG_MAX_ERROR"},
     "RATE",
     [](cli_args & args, const given & value) { args.policy.max_error = parse_threshold(value.text, value.source); },
     "keep answers of which at most this proportion is wrong, by a guarantee of the\n"
     "sidecar's verdict head. The base answers alone, without the injection\n"
     "(env: {env})",
     NEEDS_WRAPPER},
    {{"--max-p-wrong"},
     {"LLAMA_ARG_MAX_P_WRONG"},
     "P",
     [](cli_args & args, const given & value) { args.policy.max_p_wrong = parse_threshold(value.text, value.source); },
     "keep answers that are wrong with a probability of at most P, by the verdict head\n"
     "and without a guarantee (env: {env})",
     NEEDS_WRAPPER},
    {{"--on-doubt"},
     {"LLAMA_ARG_ON_DOUBT"},
     "WHAT",
     [](cli_args & args, const given & value) { args.policy.withhold = parse_on_doubt(value.text, value.source); },
     "what happens to the other answers: withhold replaces them by the refusal, flag\n"
     "keeps them, and --json marks them (default: withhold; env: {env})",
     NEEDS_WRAPPER},
    {{"--refusal-text"},
     {"LLAMA_ARG_REFUSAL_TEXT"},
     "TEXT",
     [](cli_args & args, const given & value) { args.refusal_text = parse_refusal_text(value.text, value.source); },
     "the sentence that the wrapper was trained to decline with, if its sidecar has none\n"
     "or another one. The doubt is then the probability of the first token of TEXT,\n"
     "without the sidecar's bias (env: {env})",
     NEEDS_WRAPPER},
    {{"--hidden-cache"},
     {"LLAMA_ARG_HIDDEN_CACHE"},
     "N",
     [](cli_args & args, const given & value) { args.limits.hidden_mib = parse_mib(value.text, value.source); },
     "at most N MiB for hidden states of a prompt. With them, pass 2 begins at the lowest\n"
     "injected block; 0: pass 2 goes through all blocks\n"
     "(default: 256; env: {env})"},
    {{"--prefix-cache"},
     {"LLAMA_ARG_PREFIX_CACHE"},
     "N",
     [](cli_args & args, const given & value) { args.limits.prefix_mib = parse_mib(value.text, value.source); },
     "at most N MiB for the keys, values and states of the last prompts. A prompt that\n"
     "begins with the same tokens reuses them; 0: no reuse\n"
     "(default: 512; env: {env})"},
    {{"--no-meta"},
     {"META_BASE"},
     nullptr,
     [](cli_args & args, const given & value) { args.no_meta = parse_switch(value.text, value.source); },
     "answer with the base alone (env: {env}=1)"},
    {{"--compare"},
     {},
     nullptr,
     [](cli_args & args, const given &) { args.compare = true; },
     "answer twice, with the base and with the wrapper",
     NEEDS_WRAPPER},
    {{"--raw"},
     {"META_RAW"},
     nullptr,
     [](cli_args & args, const given & value) { args.raw = parse_switch(value.text, value.source); },
     "use the prompt without chat template (env: {env}=1)"},
    {{"--prompts"},
     {},
     "FNAME",
     [](cli_args & args, const given & value) { args.prompts = value.text; },
     "answer every prompt of a file with one model load, results in order as JSON\n"
     "lines. The file is UTF-8: one prompt per line, or JSON lines, or one JSON array.\n"
     "JSON values are texts or objects with \"prompt\" (or \"question\", or \"messages\")\n"
     "and optionally \"id\" and \"gain\" (the gain of this prompt). Other keys are named\n"
     "on stderr and change nothing; keys that look like options are refused"},
    {{"-np", "--parallel"},
     {},
     "N",
     nullptr,
     "answer N prompts of --prompts at once, each with a context of -c tokens\n"
     "(default: 1; env: LLAMA_ARG_N_PARALLEL)"},
    {{"-o", "--output"},
     {},
     "FNAME",
     [](cli_args & args, const given & value) { args.output = value.text; },
     "write the results of --prompts there; if the file exists, continue after\n"
     "its last result; a file that was made with other settings is refused"},
    {{"--json"},
     {},
     nullptr,
     [](cli_args & args, const given &) { args.json = true; },
     "print a JSON object with the answer, doubt, abstention and timings; results of\n"
     "--prompts are such objects in any case"},
    {{"--version"},
     {},
     nullptr,
     [](cli_args &, const given &) { print_version(); },
     "print the versions, patches, compiler and id of this build, and the processor\n"
     "features that it was compiled for"},
    // llama.cpp's -v prints everything it knows, which buries two lines of statistics
    {{"-v", "--verbose"}, {}, nullptr, [](cli_args & args, const given &) { args.verbose = true; }, nullptr},
    {{"--chat-template"},
     {"LLAMA_ARG_CHAT_TEMPLATE"},
     "TEXT",
     [](cli_args & args, const given & value) { args.template_text = value.text; },
     nullptr},
    {{"--chat-template-file"},
     {"LLAMA_ARG_CHAT_TEMPLATE_FILE"},
     "FNAME",
     [](cli_args & args, const given & value) { args.template_file = value.text; },
     nullptr},
};

constexpr char NOTES[] = R"(
Sampling is greedy unless --temp is given, whatever the model's file recommends, and an answer ends after 512 tokens
unless -n is given.
If no prompt is given, it is read from stdin. -p, -f and -sys process escapes such as \n unless --no-escape is given;
stdin, --prompts and META_PROMPT are used unchanged. --chat-template takes Jinja text or the name of one of llama.cpp's
built-in templates. META_LAYERS must match the layers of the sidecar. Only the answer goes to stdout. -v prints
statistics of each answer on stderr, -lv 3 (info) to -lv 5 (debug) the messages of llama.cpp.

examples:
  llama-meta-generate -m base.gguf --meta doubter_sidecar.gguf -p "What is the capital of France?"
  llama-meta-generate -m base.gguf --meta doubter_sidecar.gguf --compare -p "Who won the 1937 Tour de Suisse?"
  llama-meta-generate -m base.gguf --meta doubter_sidecar.gguf --prompts questions.jsonl -o answers.jsonl

exit codes: 0 done, 1 error (also if the answer cannot be written), 2 wrong usage, 130 interrupted
)";

std::string join(const std::vector<const char *> & words) {
    std::string text;
    for (const char * word : words) {
        text += (text.empty() ? "" : ", ") + std::string(word);
    }
    return text;
}

void print_usage(int, char **) {
    constexpr size_t HELP_COLUMN = 40;
    std::string text = "\n----- metadeploy params -----\n\n";
    for (const own_flag & flag : OWN_FLAGS) {
        if (!flag.help) {
            continue;
        }
        std::string line = join(flag.names) + (flag.metavar ? std::string(" ") + flag.metavar : "");
        line.resize(HELP_COLUMN, ' ');
        std::string help = flag.help;
        if (const size_t at = help.find("{env}"); at != std::string::npos) {
            help.replace(at, 5, join(flag.env));
        }
        for (const char c : help + "\n") {
            line += c;
            if (c == '\n') {
                text += line;
                line.assign(HELP_COLUMN, ' ');
            }
        }
    }
    std::fputs((text + NOTES).c_str(), stdout);
}

const own_flag * find_flag(const std::string & name) {
    for (const own_flag & flag : OWN_FLAGS) {
        if (flag.parse && std::find(flag.names.begin(), flag.names.end(), name) != flag.names.end()) {
            return &flag;
        }
    }
    return nullptr;
}

// The variables of our flags, and those of the framework's program.
void read_environment(cli_args & args) {
    if (const char * value = env("META_DYNAMIC"); value && parse_switch(value, "META_DYNAMIC")) {
        const char * threshold = env("META_THRESHOLD");
        set_refresh(
            args.schedule, std::string(threshold ? threshold : "0.5") + ",3,20", "META_THRESHOLD with META_DYNAMIC");
    }
    for (const own_flag & flag : OWN_FLAGS) {
        for (auto name = flag.env.rbegin(); name != flag.env.rend(); ++name) {
            if (const char * value = env(*name)) {
                flag.parse(args, {value, *name});
            }
        }
    }
    if (const char * value = env("META_LAYERS")) {
        args.layers = value;
        parse_layers(args.layers, 0, "META_LAYERS"); // checked again once the model's number of layers is known
    }
    if (const char * value = env("META_NGEN")) {
        args.common.n_predict = (int32_t)parse_whole(value, -2, INT_MAX, "META_NGEN");
    }
    args.common.chat_template = chat_template_of(args, "LLAMA_ARG_CHAT_TEMPLATE or LLAMA_ARG_CHAT_TEMPLATE_FILE");
    for (const char * name : {"LLAMA_ARG_CHAT_TEMPLATE", "LLAMA_ARG_CHAT_TEMPLATE_FILE"}) {
        unset_env(name);
    }
}

// Reads prompts from the environment if no flag gives one. Called after the flags, because several flags give prompts.
void read_asked(cli_args & args) {
    common_params & common = args.common;
    const bool one = !common.prompt.empty();
    if (!one && args.prompts.empty()) {
        if (const char * value = env("META_PROMPT")) {
            common.prompt = value; // unchanged: backslashes in code are not escapes
        }
        if (const char * value = env("META_PROMPTS")) {
            args.prompts = value;
            args.nul_separated = true;
        }
    }
    if (const char * value = env("META_OUT"); value && !one && args.output.empty()) {
        args.output = value;
    }
    if (env("LLAMA_ARG_N_PARALLEL") && args.prompts.empty()) {
        common.n_parallel = 1; // a setting for files of prompts, and of other programs
    }
}

// Parses our flags and returns the rest, for llama.cpp's parser.
std::vector<std::string> take_own_flags(int argc, char ** argv, cli_args & args) {
    std::vector<std::string> rest{argv[0]};
    std::set<std::string> seen;
    std::string alone; // a flag that means nothing for the base alone
    bool has_jinja = env("LLAMA_ARG_JINJA") || env("LLAMA_ARG_NO_JINJA");
    args.template_text.clear();
    args.template_file.clear();
    for (int i = 1; i < argc; ++i) {
        std::string name = argv[i];
        if (name.compare(0, 2, "--") == 0) {
            std::replace(name.begin(), name.end(), '_', '-'); // as llama.cpp's parser does
        }
        const own_flag * flag = find_flag(name);
        if (!flag) {
            has_jinja = has_jinja || name == "--jinja" || name == "--no-jinja";
            if (i + 1 < argc) {
                check_constraint(name, argv[i + 1]);
            }
            rest.push_back(argv[i]);
            continue;
        }
        if (flag->metavar && i + 1 >= argc) {
            throw usage_error(name + " needs a value");
        }
        flag->parse(args, {flag->metavar ? argv[++i] : "1", name});
        seen.insert(name);
        if (flag->needs_wrapper) {
            alone = name;
        }
    }
    if (!args.template_text.empty() || !args.template_file.empty()) {
        args.common.chat_template = chat_template_of(args, "--chat-template or --chat-template-file");
    }
    const bool no_meta = seen.count("--no-meta") != 0;
    const bool has_goal = seen.count("--meta-goal") != 0;
    const bool has_refresh = seen.count("--meta-refresh") != 0;
    if (no_meta && !alone.empty()) {
        throw usage_error(alone + " needs the wrapper, --no-meta leaves it out");
    }
    // if a flag and a variable contradict each other
    if (no_meta || !alone.empty()) {
        args.no_meta = no_meta;
    }
    if (has_goal && !has_refresh) {
        args.schedule.refresh.reset();
    } else if (has_refresh && !has_goal) {
        args.goal.clear();
    }
    if (!has_jinja) {
        // the template as training rendered it; llama.cpp's completion program would guess one that looks like it
        rest.insert(rest.begin() + 1, "--jinja"); // at the end, it could be taken as the value of the last flag
    }
    return rest;
}

// llama.cpp's completion program knows these; accepted and ignored here they would be lies
void refuse_unsupported(const common_params & params) {
    const std::pair<bool, const char *> unsupported[] = {
        {params.interactive || params.interactive_first, "-i / -if"},
        {params.conversation_mode == COMMON_CONVERSATION_MODE_ENABLED && !params.single_turn, "-cnv"},
        {params.multiline_input, "-mli"},
        {params.simple_io, "--simple-io"},
        {params.use_color, "--color"},
        {params.display_prompt, "--display-prompt"},
        {!params.path_prompt_cache.empty() || params.prompt_cache_all || params.prompt_cache_ro, "--prompt-cache"},
        {params.grp_attn_n != 1 || params.grp_attn_w != common_params().grp_attn_w, "-gan / -gaw"},
        {!params.input_prefix.empty() || !params.input_suffix.empty() || params.input_prefix_bos,
         "--in-prefix / --in-suffix"},
        {params.ctx_shift, "--context-shift"},
        {!params.mmproj.path.empty(), "--mmproj"},
        {params.n_keep != 0, "--keep"},
        {params.special, "-sp"},
        {params.verbose_prompt, "--verbose-prompt"},
        {params.n_print > 0, "-ptc"},
        {!params.no_perf, "--perf"},             // -v has other timings
        {common_log_get_jsonl(), "--log-jsonl"}, // to stdout, where only answers go
        {params.reasoning_format != COMMON_REASONING_FORMAT_NONE, "--reasoning-format"},
        {params.force_pure_content_parser, "--skip-chat-parsing"},
        {params.sampling.reasoning_budget_tokens >= 0 || !params.sampling.reasoning_budget_message.empty(),
         "--reasoning-budget"},
        {params.sampling.backend_sampling, "-bs"}, // the logits that doubt is read from would stay on the device
    };
    for (const auto & [given, flag] : unsupported) {
        if (given) {
            throw usage_error(std::string(flag) + " is not supported by llama-meta-generate (one prompt, one answer)");
        }
    }
}

// what llama.cpp would meet with an assertion
void check_sizes(const common_params & params, bool is_refreshed) {
    const int32_t max_answers =
        is_refreshed ? LLAMA_MAX_SEQ / 2 : LLAMA_MAX_SEQ; // a refreshed answer takes two sequences
    const std::tuple<int32_t, int32_t, int32_t, const char *> sizes[] = {
        {params.n_ctx, 0, INT32_MAX, "-c"},
        {params.n_batch, 1, INT32_MAX, "-b"},
        {params.n_ubatch, 1, INT32_MAX, "-ub"},
        {params.n_parallel, 1, max_answers, is_refreshed ? "-np with --meta-refresh" : "-np"},
        {params.cpuparams.n_threads, 1, GGML_MAX_N_THREADS, "-t"},
        {params.cpuparams_batch.n_threads, 1, GGML_MAX_N_THREADS, "-tb"}};
    for (const auto & [size, least, most, flag] : sizes) {
        if (size < least || size > most) {
            throw usage_error(
                std::string(flag) + " is " + std::to_string(size) + ", expected at " +
                (size < least ? "least " + std::to_string(least) : "most " + std::to_string(most)));
        }
    }
}

// Runs llama.cpp's parser on the remaining flags. It would read and check a chat template differently, so it gets none.
void parse_rest(std::vector<std::string> & rest, common_params & common) {
    std::string chat_template;
    std::swap(chat_template, common.chat_template);
    std::vector<char *> argv;
    for (std::string & arg : rest) {
        argv.push_back(arg.data());
    }
    if (!common_params_parse((int)argv.size(), argv.data(), common, LLAMA_EXAMPLE_COMPLETION, print_usage)) {
        throw usage_error(""); // the parser has printed the fault
    }
    if (!chat_template.empty()) {
        common.chat_template = chat_template;
    }
    const bool as_bytes = std::any_of(
        rest.begin(), rest.end(), [](const std::string & arg) { return arg == "-bf" || arg == "--binary-file"; });
    if (!as_bytes) {
        const std::string source =
            common.prompt_file.empty() ? "the prompt" : "prompt file '" + common.prompt_file + "'";
        common.prompt = check_text(common.prompt, source);
    }
    common.system_prompt = check_text(common.system_prompt, "the system prompt");
}

} // namespace

cli_args parse_args(int argc, char ** argv) {
    cli_args args;
    args.common.sampling.temp = 0.0f;
    args.common.sampling.user_sampling_config = ~0ULL; // our defaults win over the recommendations in the model's file
    args.common.n_predict = 512;
    args.common.verbosity = LOG_LEVEL_ERROR;
    args.common.warmup = false;
    set_cpu_defaults(args.common.cpuparams);
    // the behavior of this program, so that flags that ask for another are noticed
    args.common.display_prompt = false;
    args.common.no_perf = args.common.sampling.no_perf = true;
    args.common.reasoning_format = COMMON_REASONING_FORMAT_NONE;
    read_environment(args);
    std::vector<std::string> rest = take_own_flags(argc, argv, args);
    check_numbers(rest);
    parse_rest(rest, args.common);
    read_asked(args);
    refuse_unsupported(args.common);
    const bool is_refreshed = args.schedule.refresh && !args.no_meta;
    check_sizes(args.common, is_refreshed);
    if (args.meta.empty() && !args.no_meta) {
        throw usage_error(
            "no sidecar given: use --meta FILE (made by `metadeploy export`), or --no-meta for the base alone");
    }
    if (args.raw && !args.common.system_prompt.empty()) {
        throw usage_error("--raw uses no chat template, so there is no place for the system prompt (-sys)");
    }
    if (!args.goal.empty() && args.schedule.refresh) {
        throw usage_error(
            "--meta-goal keeps its cognitive tokens, --meta-refresh recomputes them: give one of the two");
    }
    if (!args.output.empty() && args.prompts.empty()) {
        throw usage_error("--output goes with --prompts");
    }
    if (args.common.n_parallel > 1 && args.prompts.empty()) {
        throw usage_error("-np goes with --prompts");
    }
    if (!args.prompts.empty() && !args.common.prompt.empty()) {
        throw usage_error("give either a prompt (-p, -f, -bf) or a file of prompts (--prompts), not both");
    }
    if (is_refreshed) {
        args.common.n_parallel *= 2; // a clean context beside each that is injected into
    }
    return args;
}

} // namespace metadeploy
