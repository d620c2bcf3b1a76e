// The whole path: attaches a sidecar to a tiny base and answers a prompt. If the sidecar does not fit, one of our
// errors says why.
#include "common/log.h"
#include "errors.h"
#include "generation/batch_scheduler.h"
#include "gguf_mutator.h"
#include "log.h"
#include "model/engine.h"
#include "scratch_file.h"
#include "tiny_base.h"

#include <cmath>

using namespace metadeploy;

// never freed: at exit it would log after the thread's own data is gone
static engine * base = nullptr;
static std::vector<llama_token> clean; // what the base answers alone

static std::vector<llama_token> answer(bool inject) {
    batch_scheduler sched(*base);
    generation_params params;
    params.max_tokens = 3;
    params.sampling.temp = 0.0f;
    params.inject.on = inject;
    sched.add(base->tokenize("hello", true, true), params);
    for (;;) {
        for (const batch_scheduler::event & event : sched.step()) {
            if (event.fault) {
                std::rethrow_exception(event.fault);
            }
            if (!event.more) {
                return event.answer->tokens();
            }
        }
    }
}

extern "C" int LLVMFuzzerInitialize(int *, char ***) {
    set_log_sink(nullptr, GGML_LOG_LEVEL_ERROR);
    common_log_set_verbosity_thold(LOG_LEVEL_OUTPUT);
    llama_backend_init();
    static const fuzzing::scratch_file file("base.gguf");
    const std::string bytes =
        testing::tiny_base("{% for message in messages %}{{ message.content }}{{ x }}{% endfor %}").build();
    file.write(reinterpret_cast<const uint8_t *>(bytes.data()), bytes.size());
    common_params params;
    params.model.path = file.path;
    params.n_ctx = 64;
    params.n_batch = params.n_ubatch = 32;
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1;
    params.fit_params = false;
    params.warmup = false;
    params.n_gpu_layers = 0;
    base = new engine(params);
    clean = answer(false);
    return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t * data, size_t size, size_t max_size, unsigned int seed) {
    return fuzzing::mutate_gguf(data, size, max_size, seed);
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t * data, size_t size) {
    static const fuzzing::scratch_file file("attached.gguf");
    file.write(data, size);
    static unsigned n_runs = 0;
    try {
        base->attach(file.path);
        try {
            (void)answer(true);
            (void)base->apply_chat_template({{"user", "hello"}});
        } catch (const error &) { // values are not finite, or a template refuses its variables
        }
        // after any injection, the base alone answers as before
        if (++n_runs % 16 == 0 && answer(false) != clean) {
            std::fprintf(stderr, "the base answers otherwise after this sidecar\n");
            std::abort();
        }
    } catch (const error &) {
    }
    base->detach();
    return 0;
}
