// The compiled encoder, fold and injection against the mathematics of docs/sidecar-format.md, in double precision and
// unfolded.
#include "check.h"
#include "errors.h"
#include "model/wrapper.h"
#include "wrappers.h"

#include "ggml-alloc.h"

#include <algorithm>
#include <cmath>

using namespace metadeploy;
using namespace metadeploy::testing;

namespace {

using row = std::vector<double>;
using rows = std::vector<row>;

// F32 in ggml: some 1e-7 for each of at most a few hundred terms of order 1
constexpr double TOLERANCE = 2e-5;

float_view weights(const sidecar & source, const std::string & name) {
    return source.tensors.at(name).data;
}

row layer_norm(const sidecar & source, const std::string & name, const row & x) {
    double mean = 0.0;
    for (const double value : x) {
        mean += value / (double)x.size();
    }
    double variance = 0.0;
    for (const double value : x) {
        variance += (value - mean) * (value - mean) / (double)x.size();
    }
    row y(x.size());
    for (size_t i = 0; i < x.size(); ++i) {
        y[i] = (x[i] - mean) / std::sqrt(variance + 1e-5) * weights(source, name + ".weight")[i] +
               weights(source, name + ".bias")[i];
    }
    return y;
}

row linear(const sidecar & source, const std::string & name, const row & x) {
    const float_view w = weights(source, name + ".weight");
    row y(w.size() / x.size());
    for (size_t o = 0; o < y.size(); ++o) {
        for (size_t i = 0; i < x.size(); ++i) {
            y[o] += w[o * x.size() + i] * x[i];
        }
        if (source.tensors.count(name + ".bias") != 0) {
            y[o] += weights(source, name + ".bias")[o];
        }
    }
    return y;
}

row gelu(row x) {
    for (double & value : x) {
        value *= 0.5 * (1.0 + std::erf(value / std::sqrt(2.0)));
    }
    return x;
}

rows selective_encoder(const sidecar & source, const rows & activations) {
    rows tokens;
    for (size_t i = 0; i < activations.size(); ++i) {
        const std::string projector = "enc.layer_projectors." + std::to_string(i);
        row z = gelu(linear(source, projector + ".1", layer_norm(source, projector + ".0", activations[i])));
        for (double & value : z) {
            value *= std::tanh((double)weights(source, "enc.layer_gates." + std::to_string(i))[0]);
        }
        z = gelu(linear(source, "enc.output_proj.1", layer_norm(source, "enc.output_proj.0", z)));
        tokens.push_back(layer_norm(source, "enc.output_norm", linear(source, "enc.output_proj.3", z)));
    }
    return tokens;
}

row cross_attention(const sidecar & source, int il, const row & h, const rows & tokens, double gain) {
    const std::string ca = "ca." + std::to_string(il);
    const size_t n_head = (size_t)source.config.n_ca_head;
    const size_t head_dim = (size_t)source.config.n_bottleneck / n_head;
    const row q =
        linear(source, ca + ".q_proj", linear(source, ca + ".down_proj", layer_norm(source, ca + ".norm", h)));
    row mixed((size_t)source.config.n_bottleneck);
    for (size_t head = 0; head < n_head; ++head) {
        row score;
        for (size_t c = 0; c < tokens.size(); ++c) {
            const row k = linear(source, ca + ".k_proj", tokens[c]);
            double dot = 0.0;
            for (size_t d = head * head_dim; d < (head + 1) * head_dim; ++d) {
                dot += q[d] * k[d];
            }
            score.push_back(dot / std::sqrt((double)head_dim) + weights(source, ca + ".token_preference")[c]);
        }
        const double max = *std::max_element(score.begin(), score.end());
        double sum = 0.0;
        for (double & value : score) {
            value = std::exp(value - max);
            sum += value;
        }
        for (size_t c = 0; c < tokens.size(); ++c) {
            const row v = linear(source, ca + ".v_proj", tokens[c]);
            for (size_t d = head * head_dim; d < (head + 1) * head_dim; ++d) {
                mixed[d] += score[c] / sum * v[d];
            }
        }
    }
    const row delta = linear(source, ca + ".up_proj", mixed);
    const double gate = std::tanh((double)weights(source, ca + ".gate")[0]);
    row out = h;
    for (size_t i = 0; i < out.size(); ++i) {
        out[i] += gain * gate * delta[i];
    }
    return out;
}

wrapper on_cpu(const sidecar & source) {
    return {source, [](int) { return ggml_backend_cpu_buffer_type(); }, 1};
}

rows to_rows(const std::vector<float> & flat, int64_t n) {
    rows result;
    for (size_t first = 0; first < flat.size(); first += (size_t)n) {
        result.emplace_back(flat.begin() + (std::ptrdiff_t)first, flat.begin() + (std::ptrdiff_t)first + n);
    }
    return result;
}

double max_difference(const rows & a, const rows & b) {
    double max = a.size() == b.size() ? 0.0 : INFINITY;
    for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
        for (size_t j = 0; j < a[i].size(); ++j) {
            max = std::max(max, std::abs(a[i][j] - b[i][j]));
        }
    }
    return max;
}

double largest(const rows & a) {
    return max_difference(a, rows(a.size(), row(a[0].size(), 0.0)));
}

// a graph of one injection at this gain
class injection_graph {
public:
    injection_graph(const wrapper & meta, const std::vector<float> & hidden, float gain)
        : n_embd(meta.config().n_embd) {
        const int64_t n_tokens = (int64_t)hidden.size() / n_embd;
        cur = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, n_embd, n_tokens);
        gains = ggml_new_tensor_3d(ctx.get(), GGML_TYPE_F32, 1, 1, n_tokens);
        slots = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_I32, 1, n_tokens);
        inputs.reset(ggml_backend_alloc_ctx_tensors(ctx.get(), cpu.get()));
        ggml_backend_tensor_set(cur, hidden.data(), 0, ggml_nbytes(cur));
        const std::vector<float> gain_of_each((size_t)n_tokens, gain);
        ggml_backend_tensor_set(gains, gain_of_each.data(), 0, ggml_nbytes(gains));
    }

    rows compute(ggml_tensor * out) {
        ggml_cgraph * gf = ggml_new_graph(ctx.get());
        ggml_build_forward_expand(gf, out);
        const ggml_backend_buffer_ptr buf(ggml_backend_alloc_ctx_tensors(ctx.get(), cpu.get()));
        ggml_backend_graph_compute(cpu.get(), gf);
        std::vector<float> flat((size_t)ggml_nelements(out));
        ggml_backend_tensor_get(out, flat.data(), 0, ggml_nbytes(out));
        return to_rows(flat, n_embd);
    }

    const ggml_backend_ptr cpu{ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, nullptr)};
    const ggml_context_ptr ctx{ggml_init({64 * ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, true})};
    ggml_tensor * cur;
    ggml_tensor * gains;
    ggml_tensor * slots;

private:
    const int64_t n_embd;
    ggml_backend_buffer_ptr inputs;
};

// h + injection at block il by the compiled graph, with the tables that the wrapper holds of one sequence
rows inject(const wrapper & meta, int il, const std::vector<float> & hidden, float gain, int64_t slot = 0) {
    injection_graph graph(meta, hidden, gain);
    const ca_tables tables = view_tables(graph.ctx.get(), *meta.tables(il), slot, 1);
    return graph.compute(build_injection(graph.ctx.get(), graph.cur, tables, graph.gains).out);
}

} // namespace

TEST(selective_encoder_in_double) {
    for (const uint64_t seed : {1, 2, 3}) {
        const sidecar source = random_wrapper(encoder_type::selective, seed);
        wrapper meta = on_cpu(source);
        random_source random(seed + 100);
        const std::vector<float> activations = random.vector(3 * source.config.n_embd, 4.0f);
        meta.set_activations(activations);
        CHECK(meta.activations() == activations);
        meta.encode();
        const rows tokens = to_rows(meta.cognitive_tokens(), source.config.n_embd);
        const rows expected = selective_encoder(source, to_rows(activations, source.config.n_embd));
        CHECK(max_difference(tokens, expected) < TOLERANCE);
        CHECK(largest(expected) > 0.5);
    }
}

TEST(folded_injection_in_double) {
    for (const int64_t n_head : {1, 2, 4}) {
        sizes size;
        size.n_ca_head = n_head;
        const sidecar source = random_wrapper(encoder_type::selective, 5 + (uint64_t)n_head, size);
        wrapper meta = on_cpu(source);
        random_source random(7);
        const std::vector<float> tokens = random.vector(source.config.n_cog * source.config.n_embd, 2.0f);
        const std::vector<float> hidden = random.vector(5 * source.config.n_embd, 3.0f);
        meta.fold(tokens);
        for (const int il : source.config.cross_attn_layers) {
            for (const float gain : {1.0f, 0.0f, -0.5f}) {
                rows expected;
                double change = 0.0;
                for (const row & h : to_rows(hidden, source.config.n_embd)) {
                    expected.push_back(cross_attention(source, il, h, to_rows(tokens, source.config.n_embd), gain));
                    change = std::max(change, max_difference({h}, {expected.back()}));
                }
                CHECK(max_difference(inject(meta, il, hidden, gain), expected) < TOLERANCE);
                CHECK(gain == 0.0f ? change == 0.0 : change > 0.01);
            }
        }
    }
}

TEST(encode_also_fills_the_tables) {
    const sidecar source = random_wrapper(encoder_type::selective);
    wrapper meta = on_cpu(source);
    random_source random(9);
    const std::vector<float> hidden = random.vector(2 * source.config.n_embd);
    // before the first prompt nothing is injected
    CHECK(max_difference(inject(meta, 1, hidden, 1.0f), to_rows(hidden, source.config.n_embd)) == 0.0);
    meta.set_activations(random.vector(3 * source.config.n_embd));
    meta.encode();
    const rows once = inject(meta, 1, hidden, 1.0f);
    meta.fold(meta.cognitive_tokens());
    CHECK(max_difference(inject(meta, 1, hidden, 1.0f), once) == 0.0);
    CHECK(max_difference(once, to_rows(hidden, source.config.n_embd)) > 0.0);
}

TEST(each_sequence_has_tables_of_its_own) {
    const sidecar source = random_wrapper(encoder_type::selective);
    wrapper meta(source, [](int) { return ggml_backend_cpu_buffer_type(); }, /*n_seq =*/4);
    const int64_t n_embd = source.config.n_embd;
    random_source random(11);
    std::vector<std::vector<float>> activations;
    for (int32_t slot = 0; slot < 4; ++slot) {
        activations.push_back(random.vector(3 * n_embd));
        meta.set_activations(activations.back(), slot);
    }
    std::vector<std::vector<float>> tokens(4);
    for (const int32_t slot : {2, 0, 3}) { // sequence 1 has none
        CHECK(meta.activations(slot) == activations[(size_t)slot]);
        meta.encode(slot);
        tokens[(size_t)slot] = meta.cognitive_tokens();
        wrapper alone = on_cpu(source);
        alone.set_activations(activations[(size_t)slot]);
        alone.encode();
        CHECK(alone.cognitive_tokens() == tokens[(size_t)slot]);
    }
    const std::vector<float> hidden = random.vector(6 * n_embd);
    const rows h = to_rows(hidden, n_embd);
    for (const int il : source.config.cross_attn_layers) {
        rows of_each[4];
        for (int32_t slot = 0; slot < 4; ++slot) {
            of_each[slot] = inject(meta, il, hidden, 0.5f, slot);
        }
        CHECK(max_difference(of_each[1], h) == 0.0);
        CHECK(max_difference(of_each[0], of_each[2]) > 0.01);
        // two tokens of each of three sequences, then tokens of any
        injection_graph shares(meta, hidden, 0.5f);
        const ca_tables three = view_tables(shares.ctx.get(), *meta.tables(il), 1, 3);
        const rows together = shares.compute(build_injection(shares.ctx.get(), shares.cur, three, shares.gains).out);
        injection_graph any(meta, hidden, 0.5f);
        const std::vector<int32_t> whose = {3, 0, 2, 1, 2, 0};
        ggml_backend_tensor_set(any.slots, whose.data(), 0, ggml_nbytes(any.slots));
        const rows mixed =
            any.compute(build_injection_by_token(any.ctx.get(), any.cur, *meta.tables(il), any.gains, any.slots).out);
        for (size_t i = 0; i < h.size(); ++i) {
            CHECK(max_difference({together[i]}, {of_each[1 + i / 2][i]}) < TOLERANCE);
            CHECK(max_difference({mixed[i]}, {of_each[whose[i]][i]}) < TOLERANCE);
        }
    }
    meta.fold(tokens[2], 1);
    CHECK(max_difference(inject(meta, 1, hidden, 1.0f, 1), inject(meta, 1, hidden, 1.0f, 2)) == 0.0);
}

// Only tokens that are given: a debug build of ggml asserts that no NaN comes to the encoder's activation functions.
TEST(what_is_not_finite_is_refused_and_not_left_behind) {
    const sidecar source = random_wrapper(encoder_type::selective);
    wrapper meta(source, [](int) { return ggml_backend_cpu_buffer_type(); }, /*n_seq =*/2);
    const int64_t n_embd = source.config.n_embd;
    random_source random(13);
    const std::vector<float> tokens = random.vector(source.config.n_cog * n_embd);
    const std::vector<float> hidden = random.vector(2 * n_embd);
    meta.fold(tokens, 0);
    const rows other = inject(meta, 1, hidden, 1.0f, 0);
    for (const float huge : {3e38f, INFINITY, NAN}) {
        meta.fold(tokens, 1);
        CHECK_THROWS(decode_error, meta.fold(std::vector<float>(tokens.size(), huge), 1), "is not finite");
        CHECK(max_difference(inject(meta, 1, hidden, 1.0f, 1), to_rows(hidden, n_embd)) == 0.0);
        CHECK(max_difference(inject(meta, 1, hidden, 1.0f, 0), other) == 0.0);
    }
}

TEST(wrappers_of_every_kind_and_size_can_be_made) {
    for (const encoder_type encoder : {encoder_type::selective, encoder_type::multi_token, encoder_type::transformer}) {
        for (const int64_t n : {1, 2, 5}) {
            sizes size;
            size.n_embd = n;
            size.n_enc = 3 * n;
            size.n_cog = n;
            size.n_bottleneck = 2 * n;
            size.n_ff = n;
            size.target_layers = {999};
            const sidecar source = random_wrapper(encoder, (uint64_t)n, size);
            wrapper meta = on_cpu(source);
            meta.set_activations(std::vector<float>((size_t)n, 1.0f));
            meta.encode();
            const std::vector<float> tokens = meta.cognitive_tokens();
            CHECK_EQ((int64_t)tokens.size(), source.config.n_cog * n);
            CHECK(std::all_of(tokens.begin(), tokens.end(), [](float x) { return std::isfinite(x); }));
        }
    }
}

TEST(a_wrapper_that_injects_nothing_still_encodes) {
    const sidecar with_layers = random_wrapper(encoder_type::selective);
    sidecar source = with_layers;
    source.config.cross_attn_layers.clear();
    for (auto it = source.tensors.begin(); it != source.tensors.end();) {
        it = it->first.rfind("ca.", 0) == 0 ? source.tensors.erase(it) : std::next(it);
    }
    random_source random(11);
    const std::vector<float> activations = random.vector(3 * source.config.n_embd);
    std::vector<float> tokens[2];
    for (const sidecar * each : {&with_layers, (const sidecar *)&source}) {
        wrapper meta = on_cpu(*each);
        meta.set_activations(activations);
        meta.encode();
        tokens[each == &source] = meta.cognitive_tokens();
    }
    CHECK(tokens[0] == tokens[1]);
}

TEST(what_a_layer_has_none_of) {
    const sidecar source = random_wrapper(encoder_type::selective);
    const wrapper meta = on_cpu(source);
    CHECK(meta.tap(1) != nullptr);
    CHECK(meta.tap(3) == nullptr);
    CHECK(meta.tables(3) != nullptr);
    CHECK(meta.tables(2) == nullptr);
    CHECK_EQ(meta.gates().size(), 2u);
}
