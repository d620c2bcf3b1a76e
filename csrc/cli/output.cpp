#include "cli/output.h"

#include <cstdio>

namespace metadeploy {

namespace {

double tokens_per_second(const timings & t) {
    return t.decode_ms > 0 ? 1e3 * t.n_generated / t.decode_ms : 0.0;
}

} // namespace

nlohmann::ordered_json to_json(const generation & answer) {
    using json = nlohmann::ordered_json;
    const timings t = answer.times();
    const std::optional<double> doubt = answer.doubt(); // none: the base alone
    return {
        {"text", answer.text()},
        {"abstained", answer.abstained()},
        {"doubt", doubt ? json(*doubt) : json(nullptr)},
        {"finish_reason", finish_reason_name(answer.finish())},
        {"timings",
         {{"n_prompt", t.n_prompt},
          {"n_reused", t.n_reused},
          {"n_generated", t.n_generated},
          {"n_refreshed", t.n_refreshed},
          {"pass1_ms", t.pass1_ms},
          {"encode_ms", t.encode_ms},
          {"pass2_ms", t.pass2_ms},
          {"pass2", pass2_kind_name(t.pass2)},
          {"hidden_bytes", t.hidden_bytes},
          {"decode_ms", t.decode_ms},
          {"tokens_per_second", tokens_per_second(t)}}}};
}

nlohmann::ordered_json to_json(const injection_schedule & schedule) {
    nlohmann::ordered_json result;
    if (schedule.decay) {
        result["decay"] = {{"floor", schedule.decay->floor}, {"tau", schedule.decay->tau}};
    }
    if (schedule.window) {
        result["window"] = *schedule.window;
    }
    if (const auto & refresh = schedule.refresh) {
        result["refresh"] = {
            {"threshold", refresh->threshold},
            {"min_interval", refresh->min_interval},
            {"max_interval", refresh->max_interval}};
    }
    return result;
}

void print_statistics(const generation & answer) {
    const timings t = answer.times();
    std::fprintf(
        stderr, "prompt %d tokens (%d reused): pass 1 %.1f ms, encode %.1f ms, pass 2 (%s) %.1f ms", t.n_prompt,
        t.n_reused, t.pass1_ms, t.encode_ms, pass2_kind_name(t.pass2), t.pass2_ms);
    if (t.hidden_bytes > 0) {
        std::fprintf(stderr, ", %.1f MiB kept", (double)t.hidden_bytes / (1024.0 * 1024.0));
    }
    if (const std::optional<double> doubt = answer.doubt()) {
        std::fprintf(stderr, ", doubt %.4f", *doubt);
    }
    std::fputs("\n", stderr);
    std::fprintf(
        stderr, "answer %d tokens: %.1f ms, %.2f tokens/s\n", t.n_generated, t.decode_ms, tokens_per_second(t));
}

} // namespace metadeploy
