// Where graphs leave the activations that a verdict on an answer reads: outputs of blocks at the prompt's last token,
// in the clean pass, and at each token of the answer, with the injection. Needs no wrapper.
#pragma once

#include "ggml-backend.h"
#include "ggml-cpp.h"

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace metadeploy {

// Layers whose outputs are read, each list without repetitions.
struct tapped_layers {
    std::vector<int32_t> prompt;
    std::vector<int32_t> answer;

    bool empty() const { return prompt.empty() && answer.empty(); }
};

class answer_taps {
public:
    // place: the buffer type that the tensors of block il live in. Throws error if the device has no memory for them.
    answer_taps(
        tapped_layers layers,
        int64_t n_embd,
        int32_t n_seq,
        const std::function<ggml_backend_buffer_type_t(int il)> & place);

    const tapped_layers & layers() const { return tapped; }

    // F32 [n_embd, n_seq], a column for each sequence; nullptr if the layer is not read there
    ggml_tensor * at_prompt(int il) const { return find(prompt_rows, il); }
    ggml_tensor * at_answer(int il) const { return find(answer_rows, il); }
    bool owns(const ggml_tensor * tensor) const;

    // Rows of n_embd in the order of the layers, of one sequence. Of the answer: of the token that was evaluated last.
    std::vector<float> read_prompt(int32_t slot) const { return read(tapped.prompt, prompt_rows, slot); }
    std::vector<float> read_answer(int32_t slot) const { return read(tapped.answer, answer_rows, slot); }
    // rows: n_prompt_values() floats, as read_prompt() returns them
    void set_prompt(const float * rows, int32_t slot);
    size_t n_prompt_values() const { return tapped.prompt.size() * (size_t)n_embd; }

private:
    using by_layer = std::map<int, ggml_tensor *>;

    static ggml_tensor * find(const by_layer & tensors, int il);
    std::vector<float> read(const std::vector<int32_t> & layers, const by_layer & tensors, int32_t slot) const;

    const tapped_layers tapped;
    const int64_t n_embd;
    by_layer prompt_rows;
    by_layer answer_rows;
    std::map<ggml_backend_buffer_type_t, ggml_context_ptr> ctxs;
    std::vector<ggml_backend_buffer_ptr> bufs;
};

} // namespace metadeploy
