#include "cli/output.h"

#include "cli/prompts.h"
#include "errors.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

namespace metadeploy {

namespace {

bool stdout_closed = false;
bool stdout_failed = false; // the error has been reported

// Returns why stdout failed. code: errno, or 0 if an earlier call failed, whose errno is lost.
std::string reason(int code) {
    return code == EBADF || stdout_closed ? "it is closed" : code != 0 ? std::strerror(code) : "some of it is lost";
}

bool has_reader() {
    struct pollfd out = {STDOUT_FILENO, 0, 0};
    return poll(&out, 1, 0) < 0 || !(out.revents & POLLERR);
}

// llama.cpp's --help and --version print by themselves and exit
void check_stdout_at_exit() {
    if (stdout_failed) {
        return;
    }
    const bool failed_before = std::ferror(stdout);
    errno = 0;
    const bool failed_now = std::fflush(stdout) != 0;
    if (!failed_before && !failed_now) {
        return;
    }
    const int code = failed_now ? errno : 0;
    if (code == EPIPE || !has_reader()) {
        end_as_sigpipe_does();
    }
    std::fprintf(stderr, "error: standard output cannot be written: %s\n", reason(code).c_str());
    _exit(1);
}

double tokens_per_second(const timings & t) {
    return t.decode_ms > 0 ? 1e3 * t.n_generated / t.decode_ms : 0.0;
}

// characters of the first n_bytes of a text, as JSON shows it: with a mark for bytes that are not UTF-8
size_t n_characters(const std::string & text, size_t n_bytes) {
    const std::string shown = nlohmann::json::parse(dump_json(text.substr(0, n_bytes)));
    return (size_t)std::count_if(shown.begin(), shown.end(), [](char c) { return ((unsigned char)c & 0xC0) != 0x80; });
}

// null if the sidecar has no verdict head
nlohmann::ordered_json verdict_of(const generation & answer) {
    using json = nlohmann::ordered_json;
    const answer_features * features = answer.features();
    if (!features || !features->is_judged()) {
        return nullptr;
    }
    const auto number = [](const std::optional<double> & value) { return value ? json(*value) : json(nullptr); };
    const std::string & text = answer.withheld_text() ? *answer.withheld_text() : answer.text();
    json sentences = json::array();
    for (const sentence_features & sentence : features->sentences()) {
        sentences.push_back(
            {{"start", n_characters(text, sentence.begin)},
             {"end", n_characters(text, sentence.end)},
             {"p_wrong", number(sentence.p_wrong)}});
    }
    return {{"p_wrong", number(answer.p_wrong())}, {"sentences", sentences}, {"too_doubtful", answer.too_doubtful()}};
}

} // namespace

void check_streams() {
    // Occupies closed descriptors. Otherwise a file that is opened later would get one, and our output would go there.
    for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
        if (fcntl(fd, F_GETFD) == -1 && errno == EBADF) {
            stdout_closed = stdout_closed || fd == STDOUT_FILENO;
            open("/dev/null",
                 fd == STDIN_FILENO ? O_WRONLY : O_RDONLY); // takes the lowest; its use still fails
        }
    }
    std::signal(SIGPIPE, SIG_IGN); // a closed stderr is no reason to end
    std::signal(SIGXFSZ, SIG_IGN); // exceeding the file size limit becomes an error, like a full disk
    std::atexit(check_stdout_at_exit);
}

void require_stdout() {
    if (stdout_closed) {
        stdout_failed = true;
        throw error("standard output is closed, expected somewhere to print to (hint: > /dev/null)");
    }
}

void print(const std::string & text) {
    errno = 0;
    if (std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0) {
        return;
    }
    const int code = errno;
    stdout_failed = true;
    if (code == EPIPE) {
        throw reader_gone();
    }
    throw error("standard output cannot be written: " + reason(code));
}

void end_as_sigpipe_does() {
    std::signal(SIGPIPE, SIG_DFL);
    std::raise(SIGPIPE);
    _exit(128 + SIGPIPE); // if the signal is blocked
}

nlohmann::ordered_json to_json(const generation & answer) {
    using json = nlohmann::ordered_json;
    const timings t = answer.times();
    const std::optional<double> doubt = answer.doubt(); // none: the base alone
    json result = {
        {"text", answer.text()}, {"abstained", answer.abstained()}, {"doubt", doubt ? json(*doubt) : json(nullptr)}};
    const std::string * withheld = answer.withheld_text();
    if (const json verdict = verdict_of(answer); !verdict.is_null() && (withheld || !answer.abstained())) {
        result["verdict"] = verdict;
    }
    if (withheld) {
        result["withheld"] = *withheld;
    }
    result.update(
        json{
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
              {"tokens_per_second", tokens_per_second(t)}}}});
    return result;
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
    if (const std::optional<double> p_wrong = answer.p_wrong()) {
        std::fprintf(stderr, ", p_wrong %.4f", *p_wrong);
    }
    std::fputs("\n", stderr);
    std::fprintf(
        stderr, "answer %d tokens: %.1f ms, %.2f tokens/s\n", t.n_generated, t.decode_ms, tokens_per_second(t));
}

} // namespace metadeploy
