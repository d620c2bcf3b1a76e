// Faults that are not errors of ours: inputs that do not fit their graph, and exceptions of llama.cpp.
#include "check.h"
#include "errors.h"
#include "graph/graph_input.h"

#include "ggml-alloc.h"
#include "ggml-cpp.h"

using namespace metadeploy;

TEST(an_input_gets_all_of_its_elements) {
    ggml_context_ptr ctx(ggml_init({8 * ggml_tensor_overhead(), nullptr, true}));
    ggml_tensor * unused = new_graph_input(ctx.get(), GGML_TYPE_I32, 2);
    fill_graph_input(unused, std::vector<int32_t>{1, 2, 3}); // an input without memory, which nothing reads
    ggml_tensor * gains = new_graph_input(ctx.get(), GGML_TYPE_F32, 1, 1, 3);
    const ggml_backend_buffer_ptr buf(
        ggml_backend_alloc_ctx_tensors_from_buft(ctx.get(), ggml_backend_cpu_buffer_type()));
    fill_graph_input(gains, std::vector<float>{1.0f, 2.0f, 3.0f});
    CHECK_EQ(static_cast<const float *>(gains->data)[2], 3.0f);
    CHECK((gains->flags & GGML_TENSOR_FLAG_INPUT) != 0);
    const std::vector<float> fewer = {4.0f, 5.0f};
    CHECK_THROWS(std::logic_error, fill_graph_input(gains, fewer), "has 3 elements, its micro-batch 2");
    CHECK_EQ(static_cast<const float *>(gains->data)[0], 1.0f);
}

TEST(every_exception_is_an_error_of_its_request) {
    const auto text_of = [](auto && thrown) -> std::string {
        try {
            throw thrown;
        } catch (...) {
            try {
                std::rethrow_exception(own_fault());
            } catch (const error & e) {
                return e.what();
            }
        }
    };
    CHECK_EQ(text_of(model_mismatch_error("ours")), "ours");
    CHECK_EQ(text_of(std::bad_alloc()), "not enough memory for this request");
    CHECK_EQ(text_of(std::invalid_argument("theirs")), "llama.cpp cannot serve this request: theirs");
    CHECK_EQ(text_of(7), "llama.cpp cannot serve this request and gives no reason");
}
