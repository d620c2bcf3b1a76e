#include "inspect/quantize.h"

#include "cpu_threads.h"
#include "errors.h"
#include "files.h"
#include "log.h"

#include "llama.h"

#include <map>

namespace metadeploy {

namespace {

const std::map<std::string, llama_ftype> FILE_TYPES = {
    {"F32", LLAMA_FTYPE_ALL_F32},          {"F16", LLAMA_FTYPE_MOSTLY_F16},       {"BF16", LLAMA_FTYPE_MOSTLY_BF16},
    {"Q8_0", LLAMA_FTYPE_MOSTLY_Q8_0},     {"Q6_K", LLAMA_FTYPE_MOSTLY_Q6_K},     {"Q5_K_M", LLAMA_FTYPE_MOSTLY_Q5_K_M},
    {"Q5_K_S", LLAMA_FTYPE_MOSTLY_Q5_K_S}, {"Q4_K_M", LLAMA_FTYPE_MOSTLY_Q4_K_M}, {"Q4_K_S", LLAMA_FTYPE_MOSTLY_Q4_K_S},
    {"Q4_0", LLAMA_FTYPE_MOSTLY_Q4_0},     {"Q4_1", LLAMA_FTYPE_MOSTLY_Q4_1},     {"Q3_K_M", LLAMA_FTYPE_MOSTLY_Q3_K_M},
    {"Q2_K", LLAMA_FTYPE_MOSTLY_Q2_K},
};

} // namespace

void quantize_model(const std::string & src, const std::string & dst, const std::string & file_type, int n_threads) {
    const auto it = FILE_TYPES.find(file_type);
    if (it == FILE_TYPES.end()) {
        std::string names;
        for (const auto & [name, type] : FILE_TYPES) {
            names += (names.empty() ? "" : ", ") + name;
        }
        throw error("file type is '" + file_type + "', expected one of " + names);
    }
    if (n_threads < 0 || n_threads > GGML_MAX_N_THREADS) {
        throw option_error(
            "the number of threads is " + std::to_string(n_threads) + ", expected 0 to " +
            std::to_string(GGML_MAX_N_THREADS));
    }
    llama_model_quantize_params params = llama_model_quantize_default_params();
    params.ftype = it->second;
    params.nthread = n_threads > 0 ? n_threads : allowed_cpus();
    params.allow_requantize = true; // the base may be quantized already; the caller knows its type
    if (is_same_file(src, dst)) {
        throw error("file '" + dst + "' is the model to be quantized (an output never replaces its own input)");
    }
    replacing_file out(dst);
    log_capture log;
    if (llama_model_quantize(src.c_str(), out.path().c_str(), &params) != 0) {
        throw error(
            "model '" + src + "' cannot be quantized to " + file_type + ": " + log.first_line("unknown reason"));
    }
    out.commit();
}

} // namespace metadeploy
