#include "model/wrapper.h"

#include "cpu_threads.h"
#include "errors.h"
#include "finite.h"
#include "graph/encoder.h"

#include "ggml-alloc.h"

#include <algorithm>
#include <cmath>

namespace metadeploy {

namespace {

// Upper bounds of the tensors in a graph, views and leaves included: at most 12 for a layer that is read, 34 for one
// that is injected into; a transformer block has 10 weights and fewer than 8 nodes for each.
size_t fold_graph_size(const wrapper_config & config) {
    return 64 + 34 * config.cross_attn_layers.size();
}

size_t encode_graph_size(const wrapper_config & config, size_t n_weights) {
    return fold_graph_size(config) + 12 * config.target_layers.size() + 8 * n_weights;
}

// [D, B] row-major weights of all heads to ggml's [head_dim, D, n_head]: what one head reads lies together
std::vector<float> split_heads(const std::vector<float> & rows, int64_t n_rows, int64_t n_head, int64_t head_dim) {
    std::vector<float> out(rows.size());
    for (int64_t h = 0; h < n_head; ++h) {
        for (int64_t r = 0; r < n_rows; ++r) {
            std::copy_n(
                rows.begin() + r * n_head * head_dim + h * head_dim, head_dim,
                out.begin() + (h * n_rows + r) * head_dim);
        }
    }
    return out;
}

// Constants of the folded query path of one layer, computed by ggml (its matrix product is as fast as the machine).
struct folded_query {
    std::vector<float> w; // [D][B]: (q_proj · down_proj · diag(norm.weight))ᵀ / sqrt(head_dim)
    std::vector<float> b; // [B]:     q_proj · down_proj · norm.bias / sqrt(head_dim)
};

folded_query fold_query(
    ggml_backend_t cpu,
    const sidecar_tensor & q_proj,
    const sidecar_tensor & down_proj,
    const sidecar_tensor & norm_weight,
    const sidecar_tensor & norm_bias,
    int64_t n_head) {
    const int64_t n_b = q_proj.shape.back();
    const int64_t n_embd = (int64_t)norm_weight.data.size();
    // columns of down_proj scaled by norm.weight, then its product with norm.bias as one more column
    std::vector<float> down((n_embd + 1) * n_b); // [D + 1][B], transposed
    std::vector<double> bias(n_b);
    for (int64_t first = 0; first < n_embd; first += 16) { // in strips that stay in the cache
        const int64_t last = std::min(first + 16, n_embd);
        for (int64_t r = 0; r < n_b; ++r) {
            for (int64_t d = first; d < last; ++d) {
                const float value = down_proj.data[r * n_embd + d];
                down[d * n_b + r] = value * norm_weight.data[d];
                bias[r] += (double)value * norm_bias.data[d];
            }
        }
    }
    std::copy(bias.begin(), bias.end(), down.begin() + n_embd * n_b);
    ggml_context_ptr ctx(ggml_init({4 * ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, true}));
    ggml_tensor * q = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, n_b, n_b);
    ggml_tensor * x = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, n_b, n_embd + 1);
    ggml_tensor * y = ggml_mul_mat(ctx.get(), q, x); // [B, D + 1]
    ggml_cgraph * gf = ggml_new_graph(ctx.get());
    ggml_build_forward_expand(gf, y);
    ggml_backend_buffer_ptr buf(ggml_backend_alloc_ctx_tensors(ctx.get(), cpu));
    ggml_backend_tensor_set(q, q_proj.data.data(), 0, ggml_nbytes(q));
    ggml_backend_tensor_set(x, down.data(), 0, ggml_nbytes(x));
    ggml_backend_graph_compute(cpu, gf);
    std::vector<float> product((n_embd + 1) * n_b);
    ggml_backend_tensor_get(y, product.data(), 0, ggml_nbytes(y));
    const float scale = 1.0f / std::sqrt((float)(n_b / n_head));
    for (float & value : product) {
        value *= scale;
    }
    folded_query result;
    result.b.assign(product.end() - n_b, product.end());
    product.resize(n_embd * n_b);
    result.w = std::move(product);
    return result;
}

// u: [n_embd][n_head][n_cog]. The weights of each head are positive and sum to 1.
double max_added(const std::vector<float> & u, int64_t n_head, int64_t n_cog) {
    double most = 0.0;
    for (auto row = u.begin(); row != u.end();) {
        double sum = 0.0;
        for (int64_t h = 0; h < n_head; ++h) {
            float largest = 0.0f;
            for (const auto end = row + n_cog; row != end; ++row) {
                largest = std::max(largest, std::abs(*row));
            }
            sum += largest;
        }
        most = std::max(most, sum);
    }
    return most;
}

// Checks that the tables fit. They grow with tokens, heads and sequences, not with the size of the file. On systems
// that overcommit memory, too large an allocation succeeds and ends the process later.
void check_memory(ggml_backend_buffer_type_t buft, ggml_context * ctx, const std::string & path) {
    size_t needed = 0;
    for (ggml_tensor * t = ggml_get_first_tensor(ctx); t; t = ggml_get_next_tensor(ctx, t)) {
        needed += ggml_backend_buft_get_alloc_size(buft, t);
    }
    size_t free = 0;
    size_t total = 0;
    if (ggml_backend_dev_t dev = ggml_backend_buft_get_device(buft)) {
        ggml_backend_dev_memory(dev, &free, &total);
    }
    if (total > 0 && needed > total) {
        constexpr size_t mib = 1 << 20;
        throw sidecar_error(
            "sidecar '" + path + "': needs " + std::to_string(needed / mib) + " MiB on device '" +
            ggml_backend_buft_name(buft) + "', which has " + std::to_string(total / mib) +
            " (its tables grow with -np / n_parallel)");
    }
}

template <typename Floats> // std::vector<float> or float_view
void set_tensor(ggml_tensor * tensor, const Floats & data) {
    ggml_backend_tensor_set(tensor, data.data(), 0, ggml_nbytes(tensor));
}

} // namespace

struct wrapper::graph {
    ggml_context_ptr ctx;
    ggml_cgraph * gf = nullptr;
    ggml_backend_sched_ptr sched;

    graph(const std::vector<ggml_backend_ptr> & backends, size_t size) {
        ctx.reset(ggml_init({size * ggml_tensor_overhead() + ggml_graph_overhead_custom(size, false), nullptr, true}));
        gf = ggml_new_graph_custom(ctx.get(), size, false);
        std::vector<ggml_backend_t> list;
        for (const ggml_backend_ptr & backend : backends) {
            list.push_back(backend.get());
        }
        sched.reset(ggml_backend_sched_new(list.data(), nullptr, (int)list.size(), size, false, false));
    }

    void allocate(const std::string & subject) {
        if (!ggml_backend_sched_alloc_graph(sched.get(), gf)) {
            throw sidecar_error(subject + ": not enough memory for the encoder's graph");
        }
    }

    void compute(const std::string & subject) {
        if (ggml_backend_sched_graph_compute(sched.get(), gf) != GGML_STATUS_SUCCESS) {
            throw decode_error(subject + ": the device failed to compute the encoder");
        }
    }
};

wrapper::wrapper(const sidecar & source, const placement & place, int32_t n_seq)
    : conf(source.config), source_path(source.path), n_seq(n_seq), reaches((size_t)n_seq) {
    create_tensors(source, place);
    allocate();
    upload(source);
    build_graphs();
}

wrapper::~wrapper() = default;

void wrapper::create_tensors(const sidecar & source, const placement & place) {
    // a context for each buffer type, with room for all tensors in any one of them
    const size_t n_tensors = source.tensors.size() + conf.target_layers.size() + 9 * conf.cross_attn_layers.size() + 2;
    const auto context = [&](int il) {
        ggml_context_ptr & ctx = ctxs[place(il)];
        if (!ctx) {
            ctx.reset(ggml_init({n_tensors * ggml_tensor_overhead(), nullptr, true}));
        }
        return ctx.get();
    };
    const auto f32 = [&](int il, std::initializer_list<int64_t> ne) {
        return ggml_new_tensor(context(il), GGML_TYPE_F32, (int)ne.size(), ne.begin());
    };
    // the encoder lives beside its last target layer
    const int il_enc = *std::max_element(conf.target_layers.begin(), conf.target_layers.end());
    for (const auto & [name, tensor] : source.tensors) {
        if (name.rfind("enc.", 0) == 0 && tensor.shape.size() <= 2) {
            const int64_t n_in = tensor.shape.back();
            const int64_t n_out = tensor.shape.size() == 2 ? tensor.shape[0] : 1;
            enc[name.substr(4)] = f32(il_enc, {n_in, n_out});
        }
    }
    for (const int il : conf.target_layers) {
        taps.push_back(f32(il, {conf.n_embd, n_seq}));
    }
    cog = f32(il_enc, {conf.n_embd, conf.n_cog});
    slot_index = ggml_new_tensor_1d(context(il_enc), GGML_TYPE_I32, 1);

    const int64_t n_head = conf.n_ca_head;
    const int64_t head_dim = conf.n_bottleneck / n_head;
    for (const int il : conf.cross_attn_layers) {
        ca_weights & w = ca[il];
        w.q_w = f32(il, {head_dim, conf.n_embd, n_head});
        w.q_b = f32(il, {head_dim, 1, n_head});
        w.k = f32(il, {conf.n_embd, conf.n_bottleneck});
        w.v = f32(il, {conf.n_embd, conf.n_bottleneck});
        w.up = f32(il, {head_dim, conf.n_embd, n_head});
        w.pref = f32(il, {conf.n_cog});
        ca_tables & t = ca_tabs[il];
        t.w = f32(il, {conf.n_embd, conf.n_cog * n_head, n_seq});
        t.b = f32(il, {conf.n_cog, n_head, n_seq});
        t.u = f32(il, {conf.n_cog * n_head, conf.n_embd, n_seq});
    }
}

void wrapper::allocate() {
    for (const auto & [buft, ctx] : ctxs) {
        check_memory(buft, ctx.get(), source_path);
        ggml_backend_buffer_ptr buf(ggml_backend_alloc_ctx_tensors_from_buft(ctx.get(), buft));
        if (!buf) {
            throw sidecar_error(
                "sidecar '" + source_path + "': not enough memory on device '" + ggml_backend_buft_name(buft) +
                "' for its weights");
        }
        bufs.push_back(std::move(buf));
    }
    // taps and tables start at zero: a pass that read them too early would inject nothing, not noise
    const auto clear = [](ggml_tensor * tensor) { set_tensor(tensor, std::vector<float>(ggml_nelements(tensor))); };
    clear(cog);
    std::for_each(taps.begin(), taps.end(), clear);
    for (const auto & [il, tables] : ca_tabs) {
        clear(tables.w);
        clear(tables.b);
        clear(tables.u);
    }
}

void wrapper::upload(const sidecar & source) {
    for (const auto & [name, tensor] : enc) {
        set_tensor(tensor, source.tensors.at("enc." + name).data);
    }
    ggml_backend_ptr cpu(ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, nullptr));
    set_one_thread(cpu.get());
    const int64_t n_head = conf.n_ca_head;
    const int64_t head_dim = conf.n_bottleneck / n_head;
    for (const int il : conf.cross_attn_layers) {
        const auto get = [&](const char * name) -> const sidecar_tensor & {
            return source.tensors.at("ca." + std::to_string(il) + "." + name);
        };
        const float gate = std::tanh(get("gate").data[0]);
        gate_strengths.push_back(gate);

        const folded_query query = fold_query(
            cpu.get(), get("q_proj.weight"), get("down_proj.weight"), get("norm.weight"), get("norm.bias"), n_head);
        const ca_weights & w = ca.at(il);
        set_tensor(w.q_w, split_heads(query.w, conf.n_embd, n_head, head_dim));
        set_tensor(w.q_b, query.b);
        set_tensor(w.k, get("k_proj.weight").data);
        set_tensor(w.v, get("v_proj.weight").data);
        const float_view stored = get("up_proj.weight").data;
        std::vector<float> up(stored.begin(), stored.end());
        for (float & value : up) {
            value *= gate;
        }
        set_tensor(w.up, split_heads(up, conf.n_embd, n_head, head_dim));
        set_tensor(w.pref, get("token_preference").data);
    }
}

void wrapper::build_graphs() {
    // one backend for each device that holds something of ours; the scheduler wants the CPU last
    std::vector<ggml_backend_dev_t> devices;
    for (const auto & [buft, ctx] : ctxs) {
        ggml_backend_dev_t dev = ggml_backend_buft_get_device(buft);
        if (dev && ggml_backend_dev_type(dev) != GGML_BACKEND_DEVICE_TYPE_CPU &&
            std::find(devices.begin(), devices.end(), dev) == devices.end()) {
            devices.push_back(dev);
        }
    }
    for (ggml_backend_dev_t dev : devices) {
        backends.emplace_back(ggml_backend_dev_init(dev, nullptr));
    }
    backends.emplace_back(ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, nullptr));
    for (const ggml_backend_ptr & backend : backends) {
        if (!backend) {
            throw sidecar_error("sidecar '" + source_path + "': a device of the base model cannot be opened again");
        }
        set_one_thread(backend.get());
    }

    const auto add_fold = [&](graph & g, ggml_tensor * tokens) {
        for (const auto & [il, weights] : ca) {
            build_fold(g.ctx.get(), g.gf, weights, tokens, ca_tabs.at(il), slot_index);
        }
    };
    const std::string subject = "sidecar '" + source_path + "'";
    encode_graph = std::make_unique<graph>(backends, encode_graph_size(conf, enc.size()));
    const encoder_weights weights(encode_graph->ctx.get(), conf, [this](const std::string & name) {
        const auto it = enc.find(name);
        return it == enc.end() ? nullptr : it->second;
    });
    std::vector<ggml_tensor *> activations; // of the sequence that is being encoded, F32 [n_embd, 1]
    for (ggml_tensor * tap : taps) {
        activations.push_back(ggml_get_rows(encode_graph->ctx.get(), tap, slot_index));
    }
    ggml_tensor * tokens = ggml_cpy(encode_graph->ctx.get(), build_encoder(weights, activations), cog);
    ggml_build_forward_expand(encode_graph->gf, tokens); // wanted even if no other node reads them
    add_fold(*encode_graph, tokens);
    encode_graph->allocate(subject);

    fold_graph = std::make_unique<graph>(backends, fold_graph_size(conf));
    add_fold(*fold_graph, cog);
    fold_graph->allocate(subject);
}

ggml_tensor * wrapper::tap(int il) const {
    for (size_t i = 0; i < taps.size(); ++i) {
        if (conf.target_layers[i] == il) {
            return taps[i];
        }
    }
    return nullptr;
}

bool wrapper::is_tap(const ggml_tensor * tensor) const {
    return std::find(taps.begin(), taps.end(), tensor) != taps.end();
}

const ca_tables * wrapper::tables(int il) const {
    const auto it = ca_tabs.find(il);
    return it == ca_tabs.end() ? nullptr : &it->second;
}

void wrapper::encode(int32_t slot) {
    ggml_backend_tensor_set(slot_index, &slot, 0, sizeof(slot));
    encode_graph->compute("sidecar '" + source_path + "'");
    check_tables(slot);
}

void wrapper::fold(const std::vector<float> & tokens, int32_t slot) {
    ggml_backend_tensor_set(slot_index, &slot, 0, sizeof(slot));
    set_tensor(cog, tokens);
    fold_graph->compute("sidecar '" + source_path + "'");
    check_tables(slot);
}

// Finite weights can still be huge. What they make of a prompt must not reach the base as infinity, and not stay where
// a clean token in a batch with injected ones would multiply it by 0.
void wrapper::check_tables(int32_t slot) {
    bool finite = all_finite(cognitive_tokens());
    double & reach = reaches[(size_t)slot] = 0.0;
    std::vector<float> part;
    for (const auto & [il, tables] : ca_tabs) {
        for (ggml_tensor * table : {tables.w, tables.b, tables.u}) {
            part.resize(table->nb[2] / sizeof(float));
            ggml_backend_tensor_get(table, part.data(), (size_t)slot * table->nb[2], table->nb[2]);
            finite = finite && all_finite(part);
        }
        reach += max_added(part, conf.n_ca_head, conf.n_cog); // part is u, the last table
    }
    if (finite) {
        return;
    }
    reach = 0.0;
    for (const auto & [il, tables] : ca_tabs) {
        for (ggml_tensor * table : {tables.w, tables.b, tables.u}) {
            part.assign(table->nb[2] / sizeof(float), 0.0f);
            ggml_backend_tensor_set(table, part.data(), (size_t)slot * table->nb[2], table->nb[2]);
        }
    }
    throw decode_error(
        "sidecar '" + source_path +
        "': what it makes of a prompt is not finite (huge weights, or a base whose activations overflow)");
}

std::vector<float> wrapper::activations(int32_t slot) const {
    std::vector<float> rows(taps.size() * conf.n_embd);
    for (size_t i = 0; i < taps.size(); ++i) {
        const size_t n_bytes = taps[i]->nb[1];
        ggml_backend_tensor_get(taps[i], rows.data() + i * conf.n_embd, (size_t)slot * n_bytes, n_bytes);
    }
    return rows;
}

void wrapper::set_activations(const std::vector<float> & rows, int32_t slot) {
    for (size_t i = 0; i < taps.size(); ++i) {
        const size_t n_bytes = taps[i]->nb[1];
        ggml_backend_tensor_set(taps[i], rows.data() + i * conf.n_embd, (size_t)slot * n_bytes, n_bytes);
    }
}

std::vector<float> wrapper::cognitive_tokens() const {
    std::vector<float> rows(ggml_nelements(cog));
    ggml_backend_tensor_get(cog, rows.data(), 0, ggml_nbytes(cog));
    return rows;
}

size_t wrapper::n_bytes() const {
    size_t n = 0;
    for (const ggml_backend_buffer_ptr & buf : bufs) {
        n += ggml_backend_buffer_get_size(buf.get());
    }
    return n;
}

} // namespace metadeploy
