// llama-meta-generate: a prompt in, an honest answer out.

#include "cli/args.h"
#include "cli/prompts.h"
#include "common/log.h"
#include "errors.h"
#include "log.h"
#include "runtime/generation.h"

#include "llama.h"

#include <clocale>
#include <csignal>
#include <cstdio>
#include <exception>
#include <fstream>
#include <iostream>
#include <iterator>
#include <optional>
#include <ostream>

using namespace metadeploy;
using json = nlohmann::ordered_json;

namespace {

volatile std::sig_atomic_t interrupted = 0;

void on_interrupt(int) {
    interrupted = 1;
    std::signal(SIGINT, SIG_DFL); // the second Ctrl-C ends the process at once
}

struct answer {
    std::string text;
    bool abstained = false;
    std::optional<double> doubt; // none: the base alone
    finish_reason finish = finish_reason::none;
    timings times;
};

json to_json(const answer & a) {
    const timings & t = a.times;
    return {
        {"text", a.text},
        {"abstained", a.abstained},
        {"doubt", a.doubt ? json(*a.doubt) : json(nullptr)},
        {"finish_reason", finish_reason_name(a.finish)},
        {"timings",
         {{"n_prompt", t.n_prompt},
          {"n_reused", t.n_reused},
          {"n_generated", t.n_generated},
          {"pass1_ms", t.pass1_ms},
          {"encode_ms", t.encode_ms},
          {"pass2_ms", t.pass2_ms},
          {"pass2", pass2_kind_name(t.pass2)},
          {"hidden_bytes", t.hidden_bytes},
          {"decode_ms", t.decode_ms},
          {"tokens_per_second", t.decode_ms > 0 ? 1e3 * t.n_generated / t.decode_ms : 0.0}}}};
}

void print_statistics(const answer & a) {
    const timings & t = a.times;
    const double rate = t.decode_ms > 0 ? 1e3 * t.n_generated / t.decode_ms : 0.0;
    std::fprintf(
        stderr, "prompt %d tokens (%d reused): pass 1 %.1f ms, encode %.1f ms, pass 2 (%s) %.1f ms", t.n_prompt,
        t.n_reused, t.pass1_ms, t.encode_ms, pass2_kind_name(t.pass2), t.pass2_ms);
    if (t.hidden_bytes > 0) {
        std::fprintf(stderr, ", %.1f MiB kept", (double)t.hidden_bytes / (1024.0 * 1024.0));
    }
    if (a.doubt) {
        std::fprintf(stderr, ", doubt %.4f", *a.doubt);
    }
    std::fputs("\n", stderr);
    std::fprintf(stderr, "answer %d tokens: %.1f ms, %.2f tokens/s\n", t.n_generated, t.decode_ms, rate);
}

class program {
public:
    explicit program(const cli_args & args) : args(args), eng(args.common, args.limits) {
        eng.cancel = [] { return interrupted != 0; };
        if (!args.no_meta) {
            eng.attach(args.meta);
        }
    }

    // show: stream the text to stdout
    answer ask(const prompt_item & item, bool inject, bool show) {
        generation_params params;
        params.max_tokens = args.common.n_predict;
        params.sampling = eng.params().sampling; // completed by what only the model tells, for --ignore-eos for one
        params.stop = args.common.antiprompt;
        params.inject = {inject, args.gain};
        if (inject) {
            params.doubt_threshold = args.doubt_threshold;
        }
        generation gen(eng, tokens_of(item), params);
        chunk out;
        bool more = true;
        while (more) {
            more = gen.step(out);
            if (show) {
                std::fwrite(out.text.data(), 1, out.text.size(), stdout);
                std::fflush(stdout);
            }
        }
        return {gen.text(), gen.abstained(), gen.doubt(), gen.finish(), gen.times()};
    }

    int run_one(const prompt_item & item) {
        const bool show = !args.json;
        json result = {{"prompt", item.prompt}};
        if (args.compare) {
            if (show) {
                std::fputs("base:    ", stdout);
            }
            const answer base = ask(item, false, show);
            if (show) {
                std::fputs("\nDoubter: ", stdout);
            }
            result["base"] = to_json(base);
        }
        const answer a = ask(item, !args.no_meta, show);
        result.update(to_json(a));
        result["gain"] = args.no_meta ? 0.0f : args.gain;
        if (show) {
            std::fputs("\n", stdout);
        } else {
            std::puts(dump_json(result, 2).c_str());
        }
        if (args.verbose) {
            print_statistics(a);
        }
        return 0;
    }

    // results in order; those that the output file has already are not made again
    int run_many(const std::vector<prompt_item> & prompts) {
        const size_t first = args.output.empty() || args.nul_separated ? 0 : count_results(args.output, prompts);
        std::ofstream file;
        if (!args.output.empty()) {
            const auto mode = args.nul_separated ? std::ios::trunc : std::ios::app;
            file.open(args.output, std::ios::binary | std::ios::out | mode);
            if (!file) {
                throw error("output file '" + args.output + "' cannot be opened for writing");
            }
        }
        std::ostream & out = file.is_open() ? file : std::cout;
        if (first > 0) {
            std::fprintf(stderr, "%zu of %zu results are there already\n", first, prompts.size());
        }
        size_t n_failed = 0;
        size_t n_abstained = 0;
        for (size_t i = first; i < prompts.size(); ++i) {
            json result = {{"index", i}};
            if (!prompts[i].id.is_null()) {
                result["id"] = prompts[i].id;
            }
            result["prompt"] = prompts[i].prompt;
            std::string text;
            try {
                if (args.compare) {
                    result["base"] = to_json(ask(prompts[i], false, false));
                }
                const answer a = ask(prompts[i], !args.no_meta, false);
                result.update(to_json(a));
                result["gain"] = args.no_meta ? 0.0f : args.gain;
                text = a.text;
                n_abstained += a.abstained;
            } catch (const cancelled_error &) {
                throw;
            } catch (const error & e) {
                // one bad prompt does not take the others with it
                result["error"] = e.what();
                ++n_failed;
                std::fprintf(stderr, "\nprompt %zu: %s\n", i + 1, e.what());
            }
            if (args.nul_separated) {
                out << text << '\0';
            } else {
                out << dump_json(result) << '\n';
            }
            out.flush();
            if (!out) {
                throw error("writing the results failed (disk full?)");
            }
            std::fprintf(stderr, "\r%zu/%zu answered, %zu abstained", i + 1, prompts.size(), n_abstained);
        }
        std::fprintf(stderr, "\n");
        return n_failed == 0 ? 0 : 1;
    }

private:
    std::vector<llama_token> tokens_of(const prompt_item & item) const {
        return eng.tokenize(text_of(item), /*add_special =*/true, /*parse_special =*/true);
    }

    std::string text_of(const prompt_item & item) const {
        if (args.raw) {
            if (!item.messages.empty()) {
                throw error("--raw needs a text, got messages (it leaves the chat template out)");
            }
            return item.prompt;
        }
        std::vector<chat_message> messages = item.messages;
        if (messages.empty()) {
            messages = {{"user", item.prompt}};
        }
        const std::string & system = args.common.system_prompt;
        if (!system.empty() && messages.front().role != "system") {
            messages.insert(messages.begin(), {"system", system});
        }
        return eng.apply_chat_template(messages);
    }

    const cli_args & args;
    engine eng;
};

std::string read_stdin() {
    std::string text{std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>()};
    while (!text.empty() && (text.back() == '\n' || text.back() == '\r')) {
        text.pop_back();
    }
    return text;
}

int run(int argc, char ** argv) {
    const cli_args args = parse_args(argc, argv);
    if (const int level = args.common.verbosity; level > LOG_LEVEL_ERROR) {
        set_log_sink(
            [](ggml_log_level, const std::string & line) { std::fprintf(stderr, "%s\n", line.c_str()); },
            level >= LOG_LEVEL_DEBUG  ? GGML_LOG_LEVEL_DEBUG
            : level >= LOG_LEVEL_INFO ? GGML_LOG_LEVEL_INFO
                                      : GGML_LOG_LEVEL_WARN);
    }
    std::vector<prompt_item> prompts;
    if (!args.prompts.empty()) {
        prompts = read_prompts(args.prompts, args.nul_separated);
    } else {
        const std::string text = args.common.prompt.empty() ? read_stdin() : args.common.prompt;
        if (text.empty()) {
            throw usage_error("no prompt: give one with -p or -f, or on stdin");
        }
        prompts = {{nullptr, text, {}}};
    }
    std::signal(SIGINT, on_interrupt); // not before stdin is read: nothing could look at the flag there
    program p(args);
    return args.prompts.empty() ? p.run_one(prompts.front()) : p.run_many(prompts);
}

} // namespace

int main(int argc, char ** argv) {
    std::setlocale(LC_NUMERIC, "C");
    set_log_sink(nullptr, GGML_LOG_LEVEL_ERROR);
    llama_backend_init();
    int status = 1;
    try {
        status = run(argc, argv);
    } catch (const usage_error & e) {
        if (*e.what()) {
            std::fprintf(stderr, "error: %s\n", e.what());
        }
        std::fprintf(stderr, "try: llama-meta-generate --help\n");
        status = 2;
    } catch (const cancelled_error &) {
        std::fprintf(stderr, "\ninterrupted\n");
        status = 130;
    } catch (const std::exception & e) {
        std::fprintf(stderr, "error: %s\n", e.what());
        status = 1;
    }
    llama_backend_free();
    return status;
}
