#include "inspect/microbench.h"

#include "errors.h"
#include "generation/prompt_passes.h"

#include <algorithm>
#include <string>

namespace metadeploy {

namespace {

llama_token argmax_token(const engine & eng, const sequence & seq) {
    const float * logits = eng.logits(seq);
    return (llama_token)(std::max_element(logits, logits + eng.n_vocab()) - logits);
}

} // namespace

std::pair<timings, llama_token> prefill(
    engine & eng, size_t slot, const std::vector<llama_token> & tokens, const injection & inject) {
    if (slot >= eng.sequences().size()) {
        throw error(
            "there is no sequence " + std::to_string(slot) + ", the context has " +
            std::to_string(eng.sequences().size()));
    }
    prompt_passes passes(eng, eng.sequences()[slot], tokens, inject);
    passes.run();
    return {passes.times(), argmax_token(eng, eng.sequences()[slot])};
}

std::pair<double, std::vector<llama_token>> decode(
    engine & eng, const std::vector<llama_token> & tokens, const injection & inject) {
    if (tokens.empty() || tokens.size() > eng.sequences().size()) {
        throw error(
            "there are " + std::to_string(tokens.size()) + " tokens, expected one for each of 1 to " +
            std::to_string(eng.sequences().size()) + " sequences");
    }
    token_plan plan;
    plan.gain = injects(inject, eng.meta()) ? inject.gain : 0.0f;
    std::vector<batch_part> parts;
    for (size_t i = 0; i < tokens.size(); ++i) {
        sequence & seq = eng.sequences()[i];
        seq.plan = plan;
        parts.push_back({&seq, &tokens[i], 1, outputs::last, cache_mode::off});
    }
    const double ms = eng.evaluate(parts);
    std::vector<llama_token> next;
    for (const batch_part & part : parts) {
        eng.check_logits(*part.seq);
        next.push_back(argmax_token(eng, *part.seq));
    }
    return {ms, next};
}

} // namespace metadeploy
