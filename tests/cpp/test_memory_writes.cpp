// Where the nodes of a graph write to memory, and the rest of a graph whose nodes are dropped.
#include "check.h"
#include "graph/memory_writes.h"

#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml-cpp.h"
#include "ggml-cpu.h"

using namespace metadeploy;

namespace {

constexpr int64_t N_EMBD = 4;
constexpr int64_t N_TOKENS = 3;
constexpr int64_t N_CELLS = 8;

bool is_none(const ggml_tensor *) {
    return false;
}

// a cache of keys and a recurrent state, and a graph over them
struct model {
    model() {
        memory.reset(ggml_init({8 * ggml_tensor_overhead(), nullptr, true}));
        keys = ggml_new_tensor_2d(memory.get(), GGML_TYPE_F32, N_EMBD, N_CELLS);
        state = ggml_new_tensor_2d(memory.get(), GGML_TYPE_F32, N_EMBD, 2);
        table = ggml_new_tensor_2d(memory.get(), GGML_TYPE_I32, 1, N_CELLS);
        memory_buf.reset(ggml_backend_alloc_ctx_tensors_from_buft(memory.get(), ggml_backend_cpu_buffer_type()));
        ggml_backend_buffer_clear(memory_buf.get(), 0);

        ctx.reset(ggml_init({64 * ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, true}));
        gf = ggml_new_graph(ctx.get());
        hidden = input(GGML_TYPE_F32, N_EMBD, N_TOKENS);
        cells = input(GGML_TYPE_I64, N_TOKENS, 1);
    }

    ggml_tensor * input(ggml_type type, int64_t n0, int64_t n1) {
        ggml_tensor * tensor = ggml_new_tensor_2d(ctx.get(), type, n0, n1);
        ggml_set_input(tensor);
        return tensor;
    }

    void write_keys(ggml_tensor * index) {
        ggml_build_forward_expand(gf, ggml_set_rows(ctx.get(), keys, ggml_sqr(ctx.get(), hidden), index));
    }

    void write_state(int64_t cell) {
        ggml_tensor * last = ggml_view_1d(ctx.get(), hidden, N_EMBD, (N_TOKENS - 1) * hidden->nb[1]);
        ggml_tensor * slot = ggml_view_1d(ctx.get(), state, N_EMBD, (size_t)cell * state->nb[1]);
        ggml_build_forward_expand(gf, ggml_cpy(ctx.get(), last, slot));
    }

    void allocate() {
        alloc.reset(ggml_gallocr_new(ggml_backend_cpu_buffer_type()));
        CHECK(ggml_gallocr_alloc_graph(alloc.get(), gf));
    }

    std::vector<uint64_t> cell_fingerprints(const memory_writes & writes, const std::vector<int64_t> & to) {
        ggml_backend_tensor_set(cells, to.data(), 0, ggml_nbytes(cells));
        return writes.cell_fingerprints(N_TOKENS);
    }

    ggml_context_ptr memory;
    ggml_backend_buffer_ptr memory_buf;
    ggml_tensor * keys;
    ggml_tensor * state;
    ggml_tensor * table;
    ggml_context_ptr ctx;
    ggml_cgraph * gf;
    ggml_tensor * hidden;
    ggml_tensor * cells;
    ggml_gallocr_ptr alloc;
};

} // namespace

TEST(a_token_in_another_cell_lies_elsewhere) {
    model m;
    m.write_keys(m.cells);
    const memory_writes writes(m.gf, is_none);
    m.allocate();
    CHECK(writes.traceable());
    const auto before = m.cell_fingerprints(writes, {0, 1, 2});
    CHECK(before == m.cell_fingerprints(writes, {0, 1, 2}));
    const auto after = m.cell_fingerprints(writes, {0, 5, 2});
    CHECK(after[0] == before[0] && after[1] != before[1] && after[2] == before[2]);
}

TEST(another_state_or_another_memory_is_elsewhere) {
    model m;
    m.write_keys(m.cells);
    const memory_writes keys(m.gf, is_none);
    m.write_state(0);
    const memory_writes first(m.gf, is_none);
    drop_nodes(m.gf);
    m.write_keys(m.cells);
    m.write_state(1);
    const memory_writes second(m.gf, is_none);
    m.allocate();
    CHECK(keys.state_fingerprint() != first.state_fingerprint());
    CHECK(first.state_fingerprint() != second.state_fingerprint());
    CHECK(
        m.cell_fingerprints(first, {0, 1, 2}) ==
        m.cell_fingerprints(second, {0, 1, 2})); // a state may move, its token's keys may not
}

TEST(a_state_that_is_zeroed_first_lies_in_one_place) {
    model m;
    m.write_keys(m.cells);
    m.write_state(1);
    const memory_writes written(m.gf, is_none);
    drop_nodes(m.gf);
    m.write_keys(m.cells);
    const auto zero = [&](int64_t cell, int64_t n) {
        ggml_tensor * slot = ggml_view_1d(m.ctx.get(), m.state, n, (size_t)cell * m.state->nb[1]);
        ggml_build_forward_expand(m.gf, ggml_scale_inplace(m.ctx.get(), slot, 0.0f));
    };
    zero(0, 0); // nothing to zero
    zero(1, N_EMBD);
    m.write_state(1);
    const memory_writes zeroed(m.gf, is_none);
    zero(0, N_EMBD);
    const memory_writes both(m.gf, is_none);
    m.allocate();
    CHECK(written.state_fingerprint() == zeroed.state_fingerprint());
    CHECK(written.state_fingerprint() != both.state_fingerprint());
}

TEST(what_is_no_memory_of_the_model_does_not_count) {
    model m;
    m.write_keys(m.cells);
    const memory_writes keys(m.gf, is_none);
    m.write_state(0);
    const memory_writes both(m.gf, is_none);
    const memory_writes again(m.gf, [&](const ggml_tensor * memory) { return memory == m.state; });
    m.allocate();
    CHECK(keys.state_fingerprint() == again.state_fingerprint());
    CHECK(keys.state_fingerprint() != both.state_fingerprint());
}

TEST(rows_that_no_input_names_cannot_be_traced) {
    model m;
    ggml_tensor * ids = m.input(GGML_TYPE_I32, N_TOKENS, 1);
    ggml_tensor * index = ggml_get_rows(m.ctx.get(), m.table, ids); // I32 [1, N_TOKENS]
    m.write_keys(ggml_reshape_1d(m.ctx.get(), index, N_TOKENS));
    CHECK(!memory_writes(m.gf, is_none).traceable());
}

TEST(who_reads_what_was_written) {
    model m;
    m.write_keys(m.cells);
    const memory_writes writes(m.gf, is_none);
    drop_nodes(m.gf);
    ggml_build_forward_expand(m.gf, ggml_sqr(m.ctx.get(), m.hidden));
    m.write_state(1); // another memory
    CHECK(!writes.read_by(m.gf));
    ggml_tensor * half = ggml_view_2d(m.ctx.get(), m.keys, N_EMBD, N_CELLS / 2, m.keys->nb[1], 0);
    ggml_build_forward_expand(m.gf, ggml_mul_mat(m.ctx.get(), half, m.hidden));
    CHECK(writes.read_by(m.gf));
}

TEST(inputs_outlive_the_nodes_that_used_them) {
    model m;
    m.write_keys(m.cells);
    drop_nodes(m.gf);
    CHECK_EQ(ggml_graph_n_nodes(m.gf), 0);
    ggml_tensor * x = m.input(GGML_TYPE_F32, N_EMBD, 1);
    ggml_tensor * y = ggml_sqr(m.ctx.get(), x);
    ggml_build_forward_expand(m.gf, y);
    CHECK_EQ(ggml_graph_n_nodes(m.gf), 1);
    m.allocate();
    for (const ggml_tensor * tensor : {m.hidden, m.cells, x}) {
        CHECK(tensor->buffer != nullptr && tensor->data != nullptr);
    }
    CHECK(m.hidden->data != m.cells->data);
    m.cell_fingerprints(memory_writes(), {0, 1, 2}); // can be filled

    const std::vector<float> two(N_EMBD, 2.0f);
    ggml_backend_tensor_set(x, two.data(), 0, ggml_nbytes(x));
    const ggml_backend_ptr cpu(ggml_backend_cpu_init());
    CHECK(ggml_backend_graph_compute(cpu.get(), m.gf) == GGML_STATUS_SUCCESS);
    CHECK_EQ(static_cast<const float *>(y->data)[N_EMBD - 1], 4.0f);
    CHECK_EQ(static_cast<const float *>(m.keys->data)[0], 0.0f); // what was dropped is not computed
}

TEST(an_input_that_nobody_reads_may_grow) {
    const ggml_gallocr_ptr alloc(ggml_gallocr_new(ggml_backend_cpu_buffer_type()));
    for (const int64_t n : {4, 4000}) {
        const ggml_context_ptr ctx(ggml_init({16 * ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, true}));
        ggml_cgraph * gf = ggml_new_graph(ctx.get());
        ggml_tensor * dropped = ggml_new_tensor_1d(ctx.get(), GGML_TYPE_F32, n);
        ggml_tensor * used = ggml_new_tensor_1d(ctx.get(), GGML_TYPE_F32, 4);
        ggml_set_input(dropped);
        ggml_set_input(used);
        ggml_build_forward_expand(gf, ggml_sqr(ctx.get(), dropped));
        drop_nodes(gf);
        ggml_build_forward_expand(gf, ggml_sqr(ctx.get(), used));
        CHECK(ggml_gallocr_alloc_graph(alloc.get(), gf));
        const char * end = static_cast<const char *>(ggml_backend_buffer_get_base(dropped->buffer)) +
                           ggml_backend_buffer_get_size(dropped->buffer);
        CHECK(static_cast<const char *>(dropped->data) + ggml_nbytes(dropped) <= end);
    }
}
