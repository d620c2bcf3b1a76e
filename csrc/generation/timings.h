// Where the time of an answer goes.
#pragma once

#include <cstdint>

namespace metadeploy {

enum class pass2_kind {
    none, // nothing is injected
    tail, // from the lowest block that is injected into
    full  // all blocks
};

inline const char * pass2_kind_name(pass2_kind kind) {
    switch (kind) {
    case pass2_kind::none:
        return "none";
    case pass2_kind::tail:
        return "tail";
    case pass2_kind::full:
        return "full";
    }
    return "none";
}

struct timings {
    double pass1_ms = 0.0;  // clean pass over the prompt
    double encode_ms = 0.0; // activations to cognitive tokens to tables
    double pass2_ms = 0.0;  // injected pass; 0 if nothing is injected
    double decode_ms = 0.0; // the answer, sampling included
    pass2_kind pass2 = pass2_kind::none;
    int64_t hidden_bytes = 0; // hidden states that pass 1 stored for pass 2
    int32_t n_prompt = 0;
    int32_t n_reused = 0; // prompt tokens that pass 1 skipped because the prompt cache had them
    int32_t n_generated = 0;
    int32_t n_refreshed = 0; // number of times that the cognitive tokens were recomputed during the answer
};

} // namespace metadeploy
