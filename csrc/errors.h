// The errors of metadeploy, the same names as in metadeploy/errors.py; the bindings map one to the other.
// A message says subject, fact, expectation, hint.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

namespace metadeploy {

struct error : std::runtime_error {
    using std::runtime_error::runtime_error;
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

// "subject: fault", or the subject, a count and one line for each fault; twin of errors.faults_message
inline std::string faults_message(const std::string & subject, const std::vector<std::string> & faults) {
    if (faults.size() == 1) {
        return subject + ": " + faults[0];
    }
    std::string message = subject + ": " + std::to_string(faults.size()) + " faults";
    for (const std::string & fault : faults) {
        message += "\n  - " + fault;
    }
    return message;
}

} // namespace metadeploy
