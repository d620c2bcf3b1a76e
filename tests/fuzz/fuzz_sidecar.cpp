// The sidecar reader must read every file or refuse it with sidecar_error.
#include "errors.h"
#include "gguf_mutator.h"
#include "log.h"
#include "parse_json.h"
#include "scratch_file.h"
#include "sidecar/rules.h"
#include "sidecar/sidecar.h"

using namespace metadeploy;

extern "C" int LLVMFuzzerInitialize(int *, char ***) {
    set_log_sink(nullptr, GGML_LOG_LEVEL_ERROR);
    return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t * data, size_t size, size_t max_size, unsigned int seed) {
    return fuzzing::mutate_gguf(data, size, max_size, seed);
}

static void require(bool holds) {
    if (!holds) {
        std::abort();
    }
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t * data, size_t size) {
    static const fuzzing::scratch_file file("sidecar.gguf");
    file.write(data, size);
    try {
        const sidecar found = read_sidecar(file.path);
        const wrapper_config & config = found.config;
        require(config.n_embd >= 1 && config.n_embd <= MAX_WIDTH && config.n_cog >= 1 && config.n_ca_head >= 1);
        require(config.n_bottleneck % config.n_ca_head == 0 && !config.target_layers.empty());
        std::string fault;
        require(config.chat_template_kwargs.empty() || parse_json(config.chat_template_kwargs, fault)->is_object());
        double sum = 0; // reads every value, so that a read beyond the buffer is detected
        for (const auto & [name, tensor] : found.tensors) {
            int64_t n = 1;
            for (const int64_t width : tensor.shape) {
                n *= width;
            }
            require((size_t)n == tensor.data.size());
            for (const float value : tensor.data) {
                sum += value;
            }
        }
        require(sum == sum || !found.tensors.empty());
    } catch (const sidecar_error & e) {
        require(std::string(e.what()).rfind("sidecar '" + file.path + "': ", 0) == 0);
        require(std::string(e.what()).size() < 40000);
    }
    return 0;
}
