#include "model/answer_taps.h"

#include "errors.h"

#include <algorithm>
#include <utility>

namespace metadeploy {

answer_taps::answer_taps(
    tapped_layers layers,
    int64_t n_embd,
    int32_t n_seq,
    const std::function<ggml_backend_buffer_type_t(int il)> & place)
    : tapped(std::move(layers)), n_embd(n_embd) {
    const size_t n_tensors = tapped.prompt.size() + tapped.answer.size();
    const auto add = [&](by_layer & tensors, int il) {
        ggml_context_ptr & ctx = ctxs[place(il)];
        if (!ctx) {
            ctx.reset(ggml_init({n_tensors * ggml_tensor_overhead(), nullptr, true}));
        }
        tensors[il] = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, n_embd, n_seq);
    };
    for (const int il : tapped.prompt) {
        add(prompt_rows, il);
    }
    for (const int il : tapped.answer) {
        add(answer_rows, il);
    }
    for (const auto & [buft, ctx] : ctxs) {
        bufs.emplace_back(ggml_backend_alloc_ctx_tensors_from_buft(ctx.get(), buft));
        if (!bufs.back()) {
            throw error(
                std::string("not enough memory on device '") + ggml_backend_buft_name(buft) +
                "' for the activations of answers");
        }
        ggml_backend_buffer_clear(bufs.back().get(), 0);
    }
}

ggml_tensor * answer_taps::find(const by_layer & tensors, int il) {
    const auto it = tensors.find(il);
    return it == tensors.end() ? nullptr : it->second;
}

bool answer_taps::owns(const ggml_tensor * tensor) const {
    const auto is_it = [tensor](const by_layer::value_type & entry) { return entry.second == tensor; };
    return std::any_of(prompt_rows.begin(), prompt_rows.end(), is_it) ||
           std::any_of(answer_rows.begin(), answer_rows.end(), is_it);
}

std::vector<float> answer_taps::read(
    const std::vector<int32_t> & layers, const by_layer & tensors, int32_t slot) const {
    std::vector<float> rows(layers.size() * (size_t)n_embd);
    for (size_t i = 0; i < layers.size(); ++i) {
        const ggml_tensor * tensor = tensors.at(layers[i]);
        ggml_backend_tensor_get(tensor, rows.data() + i * n_embd, (size_t)slot * tensor->nb[1], tensor->nb[1]);
    }
    return rows;
}

void answer_taps::set_prompt(const float * rows, int32_t slot) {
    for (size_t i = 0; i < tapped.prompt.size(); ++i) {
        ggml_tensor * tensor = prompt_rows.at(tapped.prompt[i]);
        ggml_backend_tensor_set(tensor, rows + i * n_embd, (size_t)slot * tensor->nb[1], tensor->nb[1]);
    }
}

} // namespace metadeploy
