// Several threads at once: each has its own engine, others cancel it, the sink of messages changes meanwhile, and files
// change while they are read. These tests are meant for ThreadSanitizer (preset tsan), but also pass without it.
#include "bases.h"
#include "check.h"
#include "errors.h"
#include "generation/batch_scheduler.h"
#include "log.h"

#include <atomic>
#include <thread>

using namespace metadeploy;
using namespace metadeploy::testing;

namespace {

constexpr int N_ROUNDS = 6;

common_params params_for(const std::string & base, int n_threads) {
    common_params params;
    params.model.path = base;
    params.n_ctx = 256;
    params.n_parallel = 2;
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = n_threads;
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    params.fit_params = false;
    params.warmup = false;
    return params;
}

// greedy answers to several prompts of token ids at once; an answer is empty if it was canceled
std::vector<llama_token> answers(engine & eng, const std::vector<std::vector<llama_token>> & prompts) {
    batch_scheduler sched(eng);
    for (const std::vector<llama_token> & prompt : prompts) {
        generation_params params;
        params.max_tokens = 12;
        params.sampling.temp = 0.0f;
        sched.add(prompt, params);
    }
    std::vector<std::vector<llama_token>> found(prompts.size());
    try {
        for (size_t n_open = prompts.size(); n_open > 0;) {
            for (const batch_scheduler::event & each : sched.step()) {
                found[each.id].insert(found[each.id].end(), each.out.tokens.begin(), each.out.tokens.end());
                n_open -= !each.more;
            }
        }
    } catch (const cancelled_error &) {
        return {};
    }
    std::vector<llama_token> all;
    for (const std::vector<llama_token> & one : found) {
        all.insert(all.end(), one.begin(), one.end());
    }
    return all;
}

const std::vector<std::vector<llama_token>> PROMPTS = {{5, 9, 3, 17, 22, 8}, {5, 9, 3, 40}, {11}};

struct files {
    temp_dir folder;
    const std::string base = folder.write("base.gguf", tiny_base().build());
    const std::string sidecar = folder.write("sidecar.gguf", to_gguf(tiny_wrapper(encoder_type::selective)).build());
    const std::string other = folder.write("other.gguf", to_gguf(tiny_wrapper(encoder_type::transformer, 2)).build());
};

} // namespace

TEST(engines_of_several_threads_while_others_cancel_and_the_sink_changes) {
    const files f;
    engine alone(params_for(f.base, 1));
    const std::vector<llama_token> clean = answers(alone, PROMPTS);
    alone.attach(f.sidecar);
    const std::vector<llama_token> injected = answers(alone, PROMPTS);
    CHECK(!clean.empty() && clean != injected);

    std::atomic<bool> done{false};
    std::atomic<size_t> n_lines{0};
    std::thread sinks([&] {
        while (!done) {
            set_log_sink(
                [&](ggml_log_level, const std::string & line) { n_lines += line.size(); }, GGML_LOG_LEVEL_DEBUG);
            std::this_thread::yield();
            set_log_sink(nullptr, GGML_LOG_LEVEL_ERROR);
        }
    });
    constexpr int n_engines = 3;
    std::atomic<bool> cancelled[n_engines] = {};
    std::atomic<int> n_different{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < n_engines; ++i) {
        threads.emplace_back([&, i] {
            for (int round = 0; round < N_ROUNDS; ++round) {
                engine eng(params_for(f.base, 1 + i));
                eng.cancel = [&, i] { return cancelled[i].load(); };
                n_different += answers(eng, PROMPTS) != clean && !cancelled[i];
                eng.attach(f.sidecar);
                n_different += answers(eng, PROMPTS) != injected && !cancelled[i];
                eng.attach(f.other);
                answers(eng, PROMPTS);
                eng.detach();
                n_different += answers(eng, PROMPTS) != clean && !cancelled[i];
            }
        });
    }
    // one thread is canceled again and again, and continues
    std::thread canceller([&] {
        while (!done) {
            cancelled[n_engines - 1] = true;
            std::this_thread::yield();
            cancelled[n_engines - 1] = false;
        }
    });
    for (std::thread & thread : threads) {
        thread.join();
    }
    done = true;
    sinks.join();
    canceller.join();
    set_log_sink(nullptr, GGML_LOG_LEVEL_ERROR);
    CHECK_EQ(n_different.load(), 0);
    CHECK(n_lines > 0);
}

TEST(one_engine_handed_from_thread_to_thread) {
    const files f;
    engine eng(params_for(f.base, 2));
    eng.attach(f.sidecar);
    const std::vector<llama_token> expected = answers(eng, PROMPTS);
    for (int round = 0; round < N_ROUNDS; ++round) {
        std::vector<llama_token> found;
        std::thread([&] { found = answers(eng, PROMPTS); }).join();
        CHECK(found == expected);
    }
    auto last = std::make_unique<engine>(params_for(f.base, 2));
    std::thread([&] { last.reset(); }).join();
}

TEST(errors_of_several_threads_say_each_what_happened_there) {
    const files f;
    const std::string text = f.folder.write("text.gguf", "this is not a GGUF");
    std::vector<std::thread> threads;
    std::atomic<int> n_wrong{0};
    for (const auto & [path, expected] : {std::pair(text, "invalid magic"), std::pair(f.sidecar, "unknown model")}) {
        threads.emplace_back([&, path = path, expected = std::string(expected)] {
            for (int round = 0; round < N_ROUNDS; ++round) {
                try {
                    engine eng(params_for(path, 1));
                    ++n_wrong;
                } catch (const model_load_error & e) {
                    n_wrong += std::string(e.what()).find(expected) == std::string::npos;
                }
            }
        });
    }
    for (std::thread & thread : threads) {
        thread.join();
    }
    CHECK_EQ(n_wrong.load(), 0);
}
