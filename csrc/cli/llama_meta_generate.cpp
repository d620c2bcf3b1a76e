// llama-meta-generate: a prompt in, an honest answer out.

#include "cli/args.h"
#include "cli/output.h"
#include "cli/prompts.h"
#include "cli/results.h"
#include "cli/settings.h"
#include "cli/text_file.h"
#include "cli/values.h"
#include "common/log.h"
#include "errors.h"
#include "generation/batch_scheduler.h"
#include "inspect/inspection.h"
#include "log.h"

#include "llama.h"

#include <clocale>
#include <csignal>
#include <cstdio>
#include <exception>
#include <iostream>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <utility>

using namespace metadeploy;
using json = nlohmann::ordered_json;

namespace {

volatile std::sig_atomic_t interrupted = 0;

void on_interrupt(int) {
    interrupted = 1;
    std::signal(SIGINT, SIG_DFL); // the second Ctrl-C ends the process at once
}

class program {
public:
    explicit program(const cli_args & args) : args(args), eng(args.common, args.limits) {
        eng.cancel = [] { return interrupted != 0; };
        if (!args.no_meta) {
            eng.attach(args.meta, /*folded =*/true, args.refusal_text);
            const wrapper_config & config = eng.meta()->config();
            check_layers(config);
            if (args.goal.empty() && config.kind == "goal_anchor") {
                throw error(
                    "sidecar '" + args.meta +
                    "' is of kind goal_anchor, which needs a goal, and none is given, expected --meta-goal TEXT (or "
                    "--no-meta for the base alone)");
            }
            if (!args.goal.empty()) {
                const std::vector<llama_token> tokens = eng.tokenize(args.goal, true, true);
                goal = host_tensor{{config.n_cog, config.n_embd}, compute_cognitive_tokens(eng, tokens)};
            }
        }
    }

    int run_one(const prompt_item & item) {
        const bool show = !args.json;
        json result = {{"prompt", item.prompt}};
        if (args.compare) {
            if (show) {
                print("base:    ");
            }
            const auto base = ask(item, false, show);
            if (show) {
                print("\nDoubter: ");
            }
            result["base"] = to_json(*base);
        }
        const auto answer = ask(item, !args.no_meta, show);
        result.update(to_json(*answer));
        result.update(injection_of(item));
        print(show ? "\n" : dump_json(result, 2) + "\n");
        if (args.verbose) {
            print_statistics(*answer);
        }
        return 0;
    }

    // results in order; those that the output file has already are not made again
    int run_many(const std::vector<prompt_item> & prompts) {
        std::optional<result_texts> texts;
        std::optional<result_lines> lines;
        result_counts count;
        if (args.nul_separated) {
            texts.emplace(args.output);
        } else {
            count = lines.emplace(args.output, prompts, settings_of(args)).found();
        }
        if (count.n > 0) {
            std::fprintf(stderr, "%zu of %zu results are there already\n", count.n, prompts.size());
        }
        if (count.n_failed > 0) {
            std::fprintf(
                stderr, "%zu of them failed; to ask again, delete the file, or all from the first of those on\n",
                count.n_failed);
        }
        answer_all(prompts, count.n, [&](size_t i, const outcome & found) {
            json result = json::object();
            std::string text;
            if (!found.error.empty()) {
                result["error"] = found.error;
                ++count.n_failed;
                std::fprintf(stderr, "\nprompt %zu: %s\n", i + 1, found.error.c_str());
            } else {
                if (found.base) {
                    result["base"] = to_json(*found.base);
                }
                result.update(to_json(*found.answer));
                result.update(injection_of(prompts[i]));
                if (args.verbose) {
                    std::fprintf(stderr, "\nprompt %zu:\n", i + 1);
                    print_statistics(*found.answer);
                }
                text = found.answer->text();
                count.n_abstained += found.answer->abstained();
            }
            if (texts) {
                texts->write(text);
            } else {
                lines->write(i, result);
            }
            std::fprintf(stderr, "\r%zu/%zu answered, %zu abstained", i + 1, prompts.size(), count.n_abstained);
        });
        std::fprintf(stderr, "\n");
        if (texts) {
            texts->finish();
        } else {
            lines->finish();
        }
        return count.n_failed == 0 ? 0 : 1;
    }

private:
    static std::string list_of(const std::vector<int32_t> & layers) {
        std::string text;
        for (const int32_t il : layers) {
            text += (text.empty() ? "" : ",") + std::to_string(il);
        }
        return text;
    }

    // META_LAYERS is a setting of the framework's program. It may name the target layers or the injection layers.
    void check_layers(const wrapper_config & config) const {
        if (args.layers.empty()) {
            return;
        }
        const std::vector<int32_t> layers = parse_layers(args.layers, eng.n_layer(), "META_LAYERS");
        const std::set<int32_t> wanted(layers.begin(), layers.end());
        for (const auto * found : {&config.target_layers, &config.cross_attn_layers}) {
            if (std::set<int32_t>(found->begin(), found->end()) == wanted) {
                return;
            }
        }
        throw error(
            "META_LAYERS is '" + args.layers + "', but sidecar '" + args.meta + "' reads layers " +
            list_of(config.target_layers) + " and injects after " + list_of(config.cross_attn_layers) +
            " (unset the variable, or take the sidecar that was trained with those layers)");
    }

    using answer_ptr = std::shared_ptr<const generation>;

    // the state of a prompt
    struct outcome {
        answer_ptr base; // with --compare
        answer_ptr answer;
        std::string error;
        size_t n_open = 0; // answers that are still being made
    };

    // show: stream the text to stdout
    answer_ptr ask(const prompt_item & item, bool inject, bool show) {
        batch_scheduler sched(eng);
        sched.add(tokens_of(item), params_of(item, inject));
        for (;;) {
            for (const batch_scheduler::event & event : sched.step()) {
                if (event.fault) {
                    std::rethrow_exception(event.fault);
                }
                if (show) {
                    print(event.out.text);
                }
                if (!event.more) {
                    return event.answer;
                }
            }
        }
    }

    // As many at once as there are sequences. use(index, outcome) is called in order; one that fails does not take the
    // others with it.
    template <typename F>
    void answer_all(const std::vector<prompt_item> & prompts, size_t first, F && use) {
        batch_scheduler sched(eng);
        std::map<size_t, outcome> open;                        // by index
        std::map<size_t, std::pair<size_t, bool>> request_for; // by id: index, and whether the base answers alone
        size_t next = first;
        for (size_t i = first; i < prompts.size();) {
            for (; next < prompts.size() && sched.n_free() > 0; ++next) {
                outcome & into = open[next];
                try {
                    const std::vector<llama_token> tokens = tokens_of(prompts[next]);
                    for (const bool alone : {true, false}) {
                        if (!alone || args.compare) {
                            request_for[sched.add(tokens, params_of(prompts[next], !alone && !args.no_meta))] = {
                                next, alone};
                            ++into.n_open;
                        }
                    }
                } catch (const error & e) {
                    into.error = e.what();
                }
            }
            for (const batch_scheduler::event & event : sched.step()) {
                if (event.more) {
                    continue;
                }
                const auto [index, alone] = request_for.at(event.id);
                outcome & into = open.at(index);
                (alone ? into.base : into.answer) = event.answer;
                --into.n_open;
                try {
                    if (event.fault) {
                        std::rethrow_exception(event.fault);
                    }
                } catch (const error & e) {
                    into.error = e.what();
                }
            }
            for (; i < next && open.at(i).n_open == 0; ++i) {
                use(i, open.at(i));
                open.erase(i);
            }
        }
    }

    generation_params params_of(const prompt_item & item, bool inject) const {
        generation_params params;
        params.max_tokens = args.common.n_predict;
        params.sampling = eng.params().sampling; // completed by what only the model tells, for --ignore-eos for one
        params.stop = args.common.antiprompt;
        params.inject.on = inject;
        if (inject) {
            params.inject = {true, gain_of(item), args.schedule, goal};
            params.doubt_threshold = args.doubt_threshold;
            params.policy = args.policy;
        }
        return params;
    }

    double gain_of(const prompt_item & item) const { return args.no_meta ? 0.0 : item.gain.value_or(args.gain); }

    json injection_of(const prompt_item & item) const {
        json result = {{"gain", gain_of(item)}};
        if (!args.no_meta && !args.schedule.is_static()) {
            result["schedule"] = to_json(args.schedule);
        }
        if (!args.no_meta && !args.goal.empty()) {
            result["goal"] = args.goal;
        }
        return result;
    }

    std::vector<llama_token> tokens_of(const prompt_item & item) const {
        if (args.raw) {
            if (!item.messages.empty()) {
                throw error("--raw needs a text, got messages (it uses no chat template)");
            }
            return eng.tokenize(item.prompt, /*add_special =*/true, /*parse_special =*/true);
        }
        std::vector<chat_message> messages = item.messages;
        if (messages.empty()) {
            messages = {{"user", item.prompt}};
        }
        const std::string & system = args.common.system_prompt;
        if (!system.empty() && messages.front().role != "system") {
            messages.insert(messages.begin(), {"system", system});
        }
        return eng.tokenize_chat(messages);
    }

    const cli_args & args;
    engine eng;
    std::optional<host_tensor> goal; // cognitive tokens that are held
};

std::string read_stdin() {
    std::string text =
        check_text({std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>()}, "the prompt on stdin");
    while (!text.empty() && (text.back() == '\n' || text.back() == '\r')) {
        text.pop_back();
    }
    return text;
}

void print_unused(const std::vector<std::string> & keys) {
    if (!keys.empty()) {
        std::string names;
        for (const std::string & key : keys) {
            names += (names.empty() ? "" : ", ") + dump_json(key);
        }
        std::fprintf(stderr, "note: ignoring the keys %s of the prompts\n", names.c_str());
    }
}

int run(int argc, char ** argv) {
    refuse_overwriting(argc, argv); // before the parser of flags opens --log-file
    const cli_args args = parse_args(argc, argv);
    if (args.output.empty()) {
        require_stdout();
    }
    if (const int level = args.common.verbosity; level > LOG_LEVEL_ERROR) {
        set_log_sink(
            [](ggml_log_level at, const std::string & line) { // --log-file and its like are about this log
                common_log_add(common_log_main(), at, "%s\n", line.c_str());
            },
            level >= LOG_LEVEL_DEBUG  ? GGML_LOG_LEVEL_DEBUG
            : level >= LOG_LEVEL_INFO ? GGML_LOG_LEVEL_INFO
                                      : GGML_LOG_LEVEL_WARN);
    }
    llama_numa_init(args.common.numa);
    std::vector<prompt_item> prompts;
    if (!args.prompts.empty()) {
        prompt_list list = read_prompts(args.prompts, args.nul_separated);
        print_unused(list.unused);
        prompts = std::move(list.items);
    } else {
        const std::string text = args.common.prompt.empty() ? read_stdin() : args.common.prompt;
        if (text.find_first_not_of(" \t\r\n") == std::string::npos) {
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
    check_streams();
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
    } catch (const reader_gone &) {
        end_as_sigpipe_does();
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
