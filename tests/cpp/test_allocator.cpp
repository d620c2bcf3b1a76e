// The graph allocator reuses its plan for the next graph only if the plan is valid for that graph (vendor/patches).
#include "check.h"

#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml-cpp.h"
#include "ggml-cpu.h"

#include <cstdint>
#include <functional>
#include <vector>

namespace {

using build_t = std::function<void(ggml_context * ctx, ggml_cgraph * gf)>;

// Allocates graphs one after the other, as a context does.
struct allocator {
    ggml_gallocr_ptr alloc{ggml_gallocr_new(ggml_backend_cpu_buffer_type())};
    ggml_backend_ptr cpu{ggml_backend_cpu_init()};
    ggml_context_ptr ctx;
    ggml_cgraph * gf = nullptr;

    allocator() { ggml_backend_cpu_set_n_threads(cpu.get(), 1); }

    void allocate(const build_t & build) {
        ctx.reset(ggml_init({64 * ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, true}));
        gf = ggml_new_graph(ctx.get());
        build(ctx.get(), gf);
        CHECK(ggml_gallocr_alloc_graph(alloc.get(), gf));
    }

    void compute() { CHECK(ggml_backend_graph_compute(cpu.get(), gf) == GGML_STATUS_SUCCESS); }
};

ggml_tensor * input(ggml_context * ctx, int64_t n) {
    ggml_tensor * tensor = ggml_new_tensor_1d(ctx, GGML_TYPE_F32, n);
    ggml_set_input(tensor);
    return tensor;
}

void fill(ggml_tensor * tensor, float value) {
    const std::vector<float> data((size_t)ggml_nelements(tensor), value);
    ggml_backend_tensor_set(tensor, data.data(), 0, ggml_nbytes(tensor));
}

float last_of(const ggml_tensor * tensor) {
    float value = 0.0f;
    ggml_backend_tensor_get(tensor, &value, ggml_nbytes(tensor) - sizeof(value), sizeof(value));
    return value;
}

} // namespace

// Expanding a part of the graph early puts its leafs first. Nodes and their sources stay the same.
TEST(leafs_in_another_order) {
    allocator all;
    ggml_tensor * large = nullptr;
    ggml_tensor * small = nullptr;
    for (const bool early : {false, true}) {
        all.allocate([&](ggml_context * ctx, ggml_cgraph * gf) {
            large = input(ctx, 4000);
            small = input(ctx, 1);
            if (early) {
                ggml_build_forward_expand(gf, small);
            }
            ggml_build_forward_expand(gf, ggml_add(ctx, large, small));
        });
        const auto * begin = static_cast<const char *>(ggml_backend_buffer_get_base(large->buffer));
        const char * end = begin + ggml_backend_buffer_get_size(large->buffer);
        const auto * first = static_cast<const char *>(large->data);
        const auto * other = static_cast<const char *>(small->data);
        CHECK(begin <= first && first + ggml_nbytes(large) <= end);
        CHECK(other + ggml_nbytes(small) <= first || first + ggml_nbytes(large) <= other);
    }
}

// The second graph has as many nodes of the same sizes, but its last node also reads the first one.
TEST(another_reader) {
    allocator all;
    ggml_tensor * x = nullptr;
    ggml_tensor * out = nullptr;
    for (const bool again : {false, true, false}) {
        all.allocate([&](ggml_context * ctx, ggml_cgraph * gf) {
            x = input(ctx, 64);
            ggml_tensor * a = ggml_scale(ctx, x, 2.0f);
            ggml_tensor * b = ggml_scale(ctx, a, 3.0f);
            ggml_tensor * c = ggml_scale(ctx, b, 5.0f);
            out = ggml_add(ctx, c, again ? a : b);
            ggml_build_forward_expand(gf, out);
        });
        fill(x, 1.0f);
        all.compute();
        CHECK_EQ(last_of(out), again ? 32.0f : 36.0f);
    }
}

// A leaf that no node reads is filled too.
TEST(a_leaf_that_grows) {
    allocator all;
    for (const int64_t n : {4, 4000}) {
        ggml_tensor * unread = nullptr;
        all.allocate([&](ggml_context * ctx, ggml_cgraph * gf) {
            unread = input(ctx, n);
            ggml_build_forward_expand(gf, unread);
            ggml_build_forward_expand(gf, ggml_sqr(ctx, input(ctx, 4)));
        });
        const auto * end = static_cast<const char *>(ggml_backend_buffer_get_base(unread->buffer)) +
                           ggml_backend_buffer_get_size(unread->buffer);
        CHECK(static_cast<const char *>(unread->data) + ggml_nbytes(unread) <= end);
    }
}

// A graph whose tensors only became smaller is not planned again: each token of an answer has such a graph.
TEST(a_smaller_graph_of_the_same_form) {
    allocator all;
    const auto build = [](int64_t n) {
        return [n](ggml_context * ctx, ggml_cgraph * gf) {
            ggml_tensor * x = input(ctx, n);
            ggml_build_forward_expand(gf, ggml_add(ctx, ggml_scale(ctx, x, 2.0f), x));
        };
    };
    all.allocate(build(4000));
    const size_t size = ggml_gallocr_get_buffer_size(all.alloc.get(), 0);
    const void * place = ggml_graph_node(all.gf, 1)->data;
    all.allocate(build(4));
    CHECK_EQ(ggml_gallocr_get_buffer_size(all.alloc.get(), 0), size);
    CHECK(ggml_graph_node(all.gf, 1)->data == place);
}
