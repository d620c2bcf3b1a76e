// The errors of metadeploy, the same names as in metadeploy/errors.py; the bindings map one to the other.
// A message says subject, fact, expectation, hint.
#pragma once

#include <exception>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

namespace metadeploy {

struct error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// an option has an invalid value
struct option_error : error {
    using error::error;
};

struct sidecar_error : error {
    using error::error;
};

struct model_load_error : error {
    using error::error;
};

struct model_mismatch_error : error {
    using error::error;
};

struct context_overflow_error : error {
    using error::error;
};

struct decode_error : error {
    using error::error;
};

struct cancelled_error : error {
    using error::error;
};

// Converts the current exception to the error of one request. Our own errors stay unchanged. Exceptions of llama.cpp's
// samplers, grammars and tokenizers, and a lack of memory, become error. Call this in a catch block.
inline std::exception_ptr own_fault() {
    try {
        throw;
    } catch (const error &) {
        return std::current_exception();
    } catch (const std::bad_alloc &) {
        return std::make_exception_ptr(error("not enough memory for this request"));
    } catch (const std::exception & e) {
        return std::make_exception_ptr(error(std::string("llama.cpp cannot serve this request: ") + e.what()));
    } catch (...) {
        return std::make_exception_ptr(error("llama.cpp cannot serve this request and gives no reason"));
    }
}

// Shortens a long text for a message, without cutting a character. Twin of errors.shown.
inline std::string shown(const std::string & text) {
    constexpr size_t most = 100;
    if (text.size() <= most) {
        return text;
    }
    size_t end = most;
    while (end > 0 && ((unsigned char)text[end] & 0xC0) == 0x80) {
        --end;
    }
    return text.substr(0, end) + "...";
}

// "subject: fault", or the subject, a count and one line for each fault; twin of errors.faults_message
inline std::string faults_message(const std::string & subject, const std::vector<std::string> & faults) {
    if (faults.size() == 1) {
        return subject + ": " + faults[0];
    }
    constexpr size_t most = 100;
    std::string message = subject + ": " + std::to_string(faults.size()) + " faults";
    for (size_t i = 0; i < faults.size() && i < most; ++i) {
        message += "\n  - " + faults[i];
    }
    if (faults.size() > most) {
        message += "\n  - and " + std::to_string(faults.size() - most) + " more";
    }
    return message;
}

} // namespace metadeploy
