#include "model/load_model.h"

#include "cpu_threads.h"
#include "errors.h"
#include "log.h"
#include "text/chat_template.h"

#include "llama-cparams.h"

#include <filesystem>
#include <string>
#include <system_error>

namespace metadeploy {

common_init_result_ptr load_model(common_params & params) {
    const std::string subject = "model '" + params.model.path + "'";
    std::error_code ec;
    if (std::filesystem::is_directory(std::filesystem::u8path(params.model.path), ec)) {
        throw model_load_error(subject + ": is a directory, expected a GGUF");
    }
    if (!std::filesystem::is_regular_file(std::filesystem::u8path(params.model.path), ec)) {
        throw model_load_error(subject + ": no such file, expected a GGUF");
    }
    // llama.cpp asserts these, which would end the process
    for (const int n_threads : {params.cpuparams.n_threads, params.cpuparams_batch.n_threads}) {
        if (n_threads < 1 || n_threads > GGML_MAX_N_THREADS) {
            throw option_error(
                "the number of threads is " + std::to_string(n_threads) + ", expected 1 to " +
                std::to_string(GGML_MAX_N_THREADS));
        }
    }
    limit_polling(params.cpuparams);
    limit_polling(params.cpuparams_batch);
    if (params.n_batch < 1 || params.n_ubatch < 1 || params.n_ctx < 0) {
        throw option_error(
            "sizes of context, batch and micro-batch are " + std::to_string(params.n_ctx) + ", " +
            std::to_string(params.n_batch) + " and " + std::to_string(params.n_ubatch) +
            ", expected at least 0, 1 and 1");
    }
    if (params.n_parallel < 1 || params.n_parallel > LLAMA_MAX_SEQ) {
        throw option_error(
            "the number of sequences is " + std::to_string(params.n_parallel) + ", expected 1 to " +
            std::to_string(LLAMA_MAX_SEQ));
    }
    if (params.n_batch < params.n_parallel) { // llama.cpp asserts it
        throw option_error(
            std::to_string(params.n_parallel) + " sequences need a batch of as many tokens, it has " +
            std::to_string(params.n_batch) + " (give a larger -b / n_batch)");
    }
    if (!params.chat_template.empty()) {
        chat_template(params.chat_template, params.use_jinja); // checked before the slow load
    }
    // each sequence has its own cells, as many as in a context for one sequence
    params.kv_unified = false;
    const int64_t n_ctx = (params.n_ctx + 255LL) / 256 * 256 * params.n_parallel;
    if (n_ctx > INT32_MAX) {
        throw option_error(
            "a context of " + std::to_string(params.n_ctx) + " tokens for each of " +
            std::to_string(params.n_parallel) + " sequences is too large, expected at most " +
            std::to_string(INT32_MAX) + " together");
    }
    params.n_ctx = (int32_t)n_ctx;
    log_capture log;
    common_init_result_ptr result;
    try {
        result = common_init_from_params(params);
    } catch (const std::exception & e) {
        throw model_load_error(subject + ": " + e.what());
    }
    if (!result || !result->model()) {
        const std::string reason = log.first_line("unknown reason");
        const bool is_sidecar =
            reason.find("'meta-spider'") != std::string::npos || reason.find("'daimon'") != std::string::npos;
        throw model_load_error(
            subject + ": llama.cpp cannot load it: " + reason +
            (is_sidecar ? " (a sidecar, expected the base that it runs beside)" : ""));
    }
    if (!result->context()) {
        throw model_load_error(
            subject + ": no context for it: " + log.first_line("out of memory? (a smaller -c / n_ctx needs less)"));
    }
    if (!llama_model_has_decoder(result->model()) || llama_model_has_encoder(result->model()) ||
        !llama_get_memory(result->context())) {
        throw model_load_error(subject + ": not a decoder-only language model, expected one that generates text");
    }
    return result;
}

} // namespace metadeploy
