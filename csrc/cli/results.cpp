#include "cli/results.h"

#include "cli/output.h"
#include "cli/settings.h"
#include "errors.h"
#include "parse_json.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <unistd.h>
#include <utility>

extern char ** environ;

namespace metadeploy {

namespace {

using json = nlohmann::ordered_json;

constexpr char OTHER[] = "move the file away or give another --output";

bool is_file(const std::string & path) {
    std::error_code ec;
    return std::filesystem::is_regular_file(std::filesystem::u8path(path), ec);
}

// whether it is a pipe or a device, which cannot be replaced or locked
bool is_stream(const std::string & path) {
    std::error_code ec;
    const auto status = std::filesystem::status(std::filesystem::u8path(path), ec);
    return std::filesystem::exists(status) && !std::filesystem::is_regular_file(status) &&
           !std::filesystem::is_directory(status);
}

std::string subject_of(const std::string & path) {
    return "output file '" + path + "'";
}

std::string all_of(const open_file & file, const std::string & path) {
    std::string text;
    std::vector<char> chunk(1 << 20);
    for (ssize_t n; (n = read(file.descriptor(), chunk.data(), chunk.size())) != 0;) {
        if (n < 0) {
            throw error(subject_of(path) + " cannot be read: " + std::strerror(errno));
        }
        text.append(chunk.data(), (size_t)n);
    }
    return text;
}

void sync(const open_file & file, const std::string & path) {
    if (fsync(file.descriptor()) != 0 && errno != EINVAL && errno != EROFS && errno != ENOTSUP) {
        throw error(subject_of(path) + " cannot be written: " + std::strerror(errno));
    }
}

// the part of a result's line that is known before the prompt is answered
json beginning(size_t index, const prompt_item & item) {
    json line = {{"index", index}};
    if (!item.id.is_null()) {
        line["id"] = item.id;
    }
    line["prompt"] = item.prompt;
    return line;
}

bool begins_with(const std::string & text, const std::string & start) {
    return text.compare(0, start.size(), start) == 0;
}

} // namespace

result_lines::result_lines(const std::string & path, const std::vector<prompt_item> & prompts, json settings)
    : path(path), prompts(prompts), settings(std::move(settings)) {
    if (path.empty()) {
        return;
    }
    const bool stream = is_stream(path); // cannot be read, or never ends
    file.emplace(path, stream ? O_WRONLY : O_RDWR | O_APPEND | O_CREAT);
    if (!*file) {
        throw error(subject_of(path) + " cannot be opened for writing: " + std::strerror(errno));
    }
    if (stream) {
        return;
    }
    if (!file->lock()) {
        throw error(subject_of(path) + " is being written by another process, expected none (wait until it has ended)");
    }
    count(all_of(*file, path));
}

void result_lines::count(const std::string & text) {
    size_t complete = 0;
    for (size_t end; (end = text.find('\n', complete)) != std::string::npos; complete = end + 1) {
        std::string fault;
        const json line = parse_json(text.substr(complete, end - complete), fault).value_or(json());
        const std::string number = std::to_string(counts.n + 1);
        const std::string where = subject_of(path) + ", line " + number;
        const json expected =
            counts.n < prompts.size() ? json::parse(dump_json(beginning(counts.n, prompts[counts.n]))) : json();
        if (!expected.is_object() || !line.is_object() || line.value("prompt", json()) != expected["prompt"] ||
            line.value("id", json()) != expected.value("id", json())) {
            throw error(
                where + " is not the result of prompt " + number + " (results of other prompts? " + OTHER + ")");
        }
        if (counts.n == 0 && line.value("settings", json()).is_object()) {
            const std::vector<std::string> faults = settings_faults(line["settings"], settings);
            if (!faults.empty()) {
                throw error(
                    faults_message(subject_of(path) + " holds results of other settings", faults) + "\n(" + OTHER +
                    ", or give the same settings)");
            }
        }
        if (!line.contains("run")) {
            throw error(where + " does not say what it was made with (results of an older version? " + OTHER + ")");
        }
        if (line["run"] != run_id(settings, prompts[counts.n])) {
            throw error(
                where + " was made with other settings, another gain or another conversation than prompt " + number +
                " has (" + OTHER + ")");
        }
        ++counts.n;
        counts.n_failed += line.contains("error");
        counts.n_abstained += line.value("abstained", json()) == true;
    }
    const std::string rest = text.substr(complete);
    if (rest.empty()) {
        return;
    }
    // Cuts off only text that this program may have begun to write: anything else may be the user's.
    std::string expected = counts.n < prompts.size() ? dump_json(beginning(counts.n, prompts[counts.n])) : "";
    expected.resize(expected.empty() ? 0 : expected.size() - 1); // without the closing brace
    if (expected.empty() || (!begins_with(rest, expected) && !begins_with(expected, rest))) {
        throw error(
            subject_of(path) + ", line " + std::to_string(counts.n + 1) +
            " is incomplete, and not the beginning of a result (" + OTHER + ")");
    }
    if (ftruncate(file->descriptor(), (off_t)complete) != 0) {
        throw error(subject_of(path) + " cannot be written: " + std::strerror(errno));
    }
}

void result_lines::write(size_t index, const json & found) {
    json line = beginning(index, prompts[index]);
    line.update(found);
    line["run"] = run_id(settings, prompts[index]);
    if (index == 0) {
        line["settings"] = settings;
    }
    const std::string text = dump_json(line) + "\n";
    if (file) {
        write_all(file->descriptor(), text, subject_of(path));
    } else {
        print(text);
    }
}

void result_lines::finish() {
    if (file) {
        sync(*file, path);
    }
}

result_texts::result_texts(const std::string & path) : path(path) {
    if (path.empty()) {
        return;
    }
    if (is_stream(path)) {
        file.emplace(path, O_WRONLY);
    } else {
        replaced = std::make_unique<replacing_file>(path);
        file.emplace(replaced->path(), O_WRONLY);
    }
    if (!*file) {
        throw error(subject_of(path) + " cannot be opened for writing: " + std::strerror(errno));
    }
}

void result_texts::write(const std::string & text) {
    const std::string written = text + '\0';
    if (file) {
        write_all(file->descriptor(), written, subject_of(path));
    } else {
        print(written);
    }
}

void result_texts::finish() {
    if (replaced) {
        replaced->commit();
    }
}

void refuse_overwriting(int argc, char ** argv) {
    std::vector<std::string> outputs;
    std::vector<std::string> inputs;
    const auto sort = [&](bool is_output, const std::string & value) {
        if (is_file(value)) {
            (is_output ? outputs : inputs).push_back(value);
        }
    };
    for (int i = 1; i < argc; ++i) {
        const std::string flag = argv[i - 1];
        sort(flag == "-o" || flag == "--output" || flag == "--log-file", argv[i]);
    }
    for (char ** entry = environ; *entry; ++entry) {
        const std::string text = *entry;
        const size_t at = text.find('=');
        if (at != std::string::npos && (begins_with(text, "META_") || begins_with(text, "LLAMA_ARG_"))) {
            const std::string name = text.substr(0, at);
            sort(name == "META_OUT" || name == "LLAMA_ARG_LOG_FILE", text.substr(at + 1));
        }
    }
    if (outputs.size() > 1 && is_same_file(outputs[0], outputs[1])) {
        throw error(subject_of(outputs[0]) + " is also the log file (give each a file of its own)");
    }
    for (const std::string & output : outputs) {
        for (const std::string & input : inputs) {
            if (is_same_file(output, input)) {
                throw error(
                    subject_of(output) + " is the same file as the input '" + input +
                    "' (an output never replaces its own input; give another file)");
            }
        }
    }
}

} // namespace metadeploy
