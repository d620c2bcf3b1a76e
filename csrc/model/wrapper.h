// A sidecar on the devices of its base model: weights, taps, tables and the graph between them.
//
//     taps (written by pass 1) ─ encoder ─▶ cognitive tokens ─ fold ─▶ tables (read by pass 2 and decoding)
//
// All of them are tensors with an address of their own, so a prompt changes contents and never a graph. Taps and tables
// are there for each sequence of the context, one behind the other; a slot is the place of one of them.
#pragma once

#include "graph/cross_attention.h"
#include "sidecar/sidecar.h"

#include "ggml-backend.h"
#include "ggml-cpp.h"

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace metadeploy {

class wrapper {
public:
    // in which buffer type the tensors of block il live
    using placement = std::function<ggml_backend_buffer_type_t(int il)>;

    // Throws sidecar_error if the weights do not fit into the devices' memory.
    wrapper(const sidecar & source, const placement & place, int32_t n_seq = 1);
    ~wrapper();
    wrapper(const wrapper &) = delete;
    wrapper & operator=(const wrapper &) = delete;

    const wrapper_config & config() const { return conf; }
    const std::string & path() const { return source_path; }

    // where pass 1 leaves the activations of target layer il, F32 [n_embd, n_seq]; nullptr: not a target layer
    ggml_tensor * tap(int il) const;
    bool is_tap(const ggml_tensor * tensor) const;

    // the tables that the injection at block il reads, of all sequences; nullptr: no injection there
    const ca_tables * tables(int il) const;

    // taps → cognitive tokens → tables. Throws decode_error, as fold() does, where these are not finite; they are then
    // 0.
    void encode(int32_t slot = 0);

    // cognitive tokens → tables, for tokens from elsewhere; tokens: n_cog rows of n_embd
    void fold(const std::vector<float> & tokens, int32_t slot = 0);

    // The most that the injection adds to an element of the base's hidden states, in all layers together, at gain 1.
    double reach(int32_t slot) const { return reaches[(size_t)slot]; }

    ggml_tensor * cog_tensor() const { return cog; } // those encoded or folded last, F32 [n_embd, n_cog]

    // n_target rows of n_embd, in the order of config().target_layers
    std::vector<float> activations(int32_t slot = 0) const;
    void set_activations(const std::vector<float> & rows, int32_t slot = 0);

    // the same, n_cog rows of n_embd
    std::vector<float> cognitive_tokens() const;

    // tanh(gate) of each cross-attention layer, in the order of config().cross_attn_layers
    const std::vector<float> & gates() const { return gate_strengths; }

    size_t n_bytes() const; // memory of weights and tables

private:
    struct graph; // a graph with its scheduler, allocated once

    void create_tensors(const sidecar & source, const placement & place);
    void allocate();
    void upload(const sidecar & source);
    void build_graphs();
    void check_tables(int32_t slot);

    wrapper_config conf;
    std::string source_path;
    const int32_t n_seq;
    std::vector<float> gate_strengths;
    std::vector<double> reaches; // per slot

    std::map<ggml_backend_buffer_type_t, ggml_context_ptr> ctxs;
    std::vector<ggml_backend_buffer_ptr> bufs;

    std::map<std::string, ggml_tensor *> enc; // by the name in the checkpoint
    std::vector<ggml_tensor *> taps;          // by position in target_layers
    std::map<int, ca_weights> ca;             // by layer
    std::map<int, ca_tables> ca_tabs;
    ggml_tensor * cog = nullptr;        // F32 [n_embd, n_cog]
    ggml_tensor * slot_index = nullptr; // I32 [1], slot of the sequence that is being encoded

    std::vector<ggml_backend_ptr> backends;
    std::unique_ptr<graph> encode_graph;
    std::unique_ptr<graph> fold_graph;
};

} // namespace metadeploy
