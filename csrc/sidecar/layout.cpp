#include "sidecar/layout.h"

#include <algorithm>

namespace metadeploy {

namespace {

using shape_map = std::map<std::string, std::vector<int64_t>>;

std::string shape_text(const std::vector<int64_t> & shape) {
    std::string text = "[";
    for (size_t i = 0; i < shape.size(); ++i) {
        text += (i ? ", " : "") + std::to_string(shape[i]);
    }
    return text + "]";
}

// GGUF does not keep outer dimensions of 1: [1, 64] comes back as [64]
std::vector<int64_t> significant(const std::vector<int64_t> & shape) {
    size_t first = 0;
    while (first + 1 < shape.size() && shape[first] == 1) {
        ++first;
    }
    return {shape.begin() + (std::ptrdiff_t)first, shape.end()};
}

// collects the faults of one wrapper
class checker {
public:
    explicit checker(const shape_map & shapes) : shapes(shapes) {}

    void fault(const std::string & text) { faults.push_back(text); }

    bool has(const std::string & name) const { return shapes.count(name) != 0; }

    void require(const std::string & name, const std::vector<int64_t> & expected) {
        const auto it = shapes.find(name);
        if (it == shapes.end()) {
            fault("tensor '" + name + "' is missing, expected shape " + shape_text(expected));
        } else if (significant(it->second) != significant(expected)) {
            fault("tensor '" + name + "' has shape " + shape_text(it->second) + ", expected " + shape_text(expected));
        }
    }

    void require_norm(const std::string & name, int64_t width) {
        require(name + ".weight", {width});
        require(name + ".bias", {width});
    }

    void require_linear(const std::string & name, int64_t n_out, int64_t n_in, bool bias) {
        require(name + ".weight", {n_out, n_in});
        if (bias) {
            require(name + ".bias", {n_out});
        }
    }

    // length of a vector, or 0 where there is none of that name
    int64_t length(const std::string & name) const {
        const auto it = shapes.find(name);
        return it != shapes.end() && it->second.size() == 1 ? it->second[0] : 0;
    }

    // rows of a matrix (PyTorch: out features), or 0 where there is none of that name
    int64_t rows(const std::string & name) const {
        const auto it = shapes.find(name);
        if (it == shapes.end() || it->second.empty() || it->second.size() > 2) {
            return 0;
        }
        return it->second.size() == 2 ? it->second[0] : 1;
    }

    // LayerNorm + Linear + GELU, or (where allowed) a Linear without bias
    void require_projector(const std::string & name, const wrapper_config & config, bool plain_allowed) {
        if (plain_allowed && has(name + ".weight")) {
            require_linear(name, config.n_enc, config.n_embd, false);
        } else {
            require_norm(name + ".0", config.n_embd);
            require_linear(name + ".1", config.n_enc, config.n_embd, true);
        }
    }

    void require_heads(const char * what, int64_t n_head, int64_t width) {
        if (n_head <= 0 || width % n_head != 0) {
            fault(
                std::string(what) + " has " + std::to_string(n_head) + " heads, expected a divisor of its width " +
                std::to_string(width));
        }
    }

    const shape_map & shapes;
    std::vector<std::string> faults;
};

// width inside the encoder, from whichever tensor tells it
int64_t find_encoder_width(const checker & check) {
    for (const char * name :
         {"enc.layer_projectors.0.1.weight", "enc.layer_projectors.0.weight", "enc.shared_projector.1.weight",
          "enc.shared_projector.weight"}) {
        if (const int64_t width = check.rows(name)) {
            return width;
        }
    }
    return check.length("enc.output_proj.0.weight");
}

void check_encoder(checker & check, const wrapper_config & config) {
    const int64_t n_target = (int64_t)config.target_layers.size();
    const bool shared = config.encoder == encoder_type::transformer &&
                        (check.has("enc.shared_projector.weight") || check.has("enc.shared_projector.1.weight"));
    if (shared) {
        check.require_projector("enc.shared_projector", config, true);
    } else {
        for (int64_t i = 0; i < n_target; ++i) {
            check.require_projector(
                "enc.layer_projectors." + std::to_string(i), config, config.encoder != encoder_type::selective);
        }
        const std::string surplus = "enc.layer_projectors." + std::to_string(n_target);
        if (check.has(surplus + ".weight") || check.has(surplus + ".1.weight")) {
            check.fault(
                "tensor '" + surplus + "' exists, expected projectors for the " + std::to_string(n_target) +
                " target layers only (wrong target_layers?)");
        }
    }
    const bool bias = config.encoder != encoder_type::transformer;
    check.require_norm("enc.output_proj.0", config.n_enc);
    check.require_linear("enc.output_proj.1", config.n_embd, config.n_enc, bias);
    check.require_linear("enc.output_proj.3", config.n_embd, config.n_embd, bias);
    check.require_norm("enc.output_norm", config.n_embd);

    switch (config.encoder) {
    case encoder_type::selective:
        for (int64_t i = 0; i < n_target; ++i) {
            check.require("enc.layer_gates." + std::to_string(i), {1});
        }
        break;
    case encoder_type::multi_token:
        check.require("enc.queries", {config.n_cog, config.n_enc});
        check.require("enc.cross_attn.in_proj_weight", {3 * config.n_enc, config.n_enc});
        check.require("enc.cross_attn.in_proj_bias", {3 * config.n_enc});
        check.require_linear("enc.cross_attn.out_proj", config.n_enc, config.n_enc, true);
        check.require_heads("the encoder", config.n_enc_head, config.n_enc);
        break;
    case encoder_type::transformer:
        if (check.has("enc.layer_pos_embed")) {
            check.require("enc.layer_pos_embed", {n_target, config.n_enc});
        }
        check.require_norm("enc.input_norm", config.n_enc);
        if (!check.has("enc.blocks.0.norm_attn.weight")) {
            check.fault("tensor 'enc.blocks.0.norm_attn.weight' is missing, expected at least one block");
        }
        for (int64_t b = 0; check.has("enc.blocks." + std::to_string(b) + ".norm_attn.weight"); ++b) {
            const std::string block = "enc.blocks." + std::to_string(b);
            check.require_norm(block + ".norm_attn", config.n_enc);
            for (const char * name : {".q_proj", ".k_proj", ".v_proj", ".o_proj"}) {
                check.require_linear(block + name, config.n_enc, config.n_enc, false);
            }
            check.require_norm(block + ".norm_ffn", config.n_enc);
            const int64_t n_ff = std::max<int64_t>(check.rows(block + ".ffn.0.weight"), 1);
            check.require_linear(block + ".ffn.0", n_ff, config.n_enc, false);
            check.require_linear(block + ".ffn.2", config.n_enc, n_ff, false);
        }
        check.require_heads("the encoder", config.n_enc_head, config.n_enc);
        break;
    }
}

void check_cross_attention(checker & check, const wrapper_config & config) {
    for (const int32_t il : config.cross_attn_layers) {
        const std::string ca = "ca." + std::to_string(il);
        check.require_norm(ca + ".norm", config.n_embd);
        check.require_linear(ca + ".down_proj", config.n_bottleneck, config.n_embd, false);
        check.require_linear(ca + ".q_proj", config.n_bottleneck, config.n_bottleneck, false);
        check.require_linear(ca + ".k_proj", config.n_bottleneck, config.n_embd, false);
        check.require_linear(ca + ".v_proj", config.n_bottleneck, config.n_embd, false);
        check.require_linear(ca + ".up_proj", config.n_embd, config.n_bottleneck, false);
        check.require(ca + ".gate", {1});
        check.require(ca + ".token_preference", {config.n_cog});
    }
    check.require_heads("the cross-attention", config.n_ca_head, config.n_bottleneck);
}

} // namespace

std::vector<std::string> check_layout(const shape_map & shapes, wrapper_config & config) {
    checker check(shapes);
    if (config.target_layers.empty()) {
        check.fault("no target layers, expected at least one");
    }
    if (config.cross_attn_layers.empty()) {
        check.fault("no cross-attention layers, expected at least one");
    }
    // a layer with weights that the list leaves out would be a silent no-op
    for (const auto & [name, shape] : shapes) {
        if (name.rfind("ca.", 0) != 0 || name.size() < 5 || name.substr(name.size() - 5) != ".gate") {
            continue;
        }
        const std::string layer = name.substr(3, name.size() - 8);
        const bool listed =
            std::any_of(config.cross_attn_layers.begin(), config.cross_attn_layers.end(), [&](int32_t il) {
                return std::to_string(il) == layer;
            });
        if (!listed) {
            check.fault(
                "tensor '" + name + "' exists, but layer " + layer + " is not among the cross-attention layers");
        }
    }
    if (!check.faults.empty()) {
        return check.faults;
    }
    // the tensors are the truth: published files say 32 cognitive tokens and hold 11
    const std::string first_ca = "ca." + std::to_string(config.cross_attn_layers.front());
    if (const int64_t n_embd = check.length("enc.output_norm.weight")) {
        if (config.n_embd != 0 && config.n_embd != n_embd) {
            check.fault(
                "hidden_dim is " + std::to_string(config.n_embd) + ", but 'enc.output_norm.weight' has " +
                std::to_string(n_embd) + " elements");
        }
        config.n_embd = n_embd;
    }
    config.n_enc = find_encoder_width(check);
    if (const int64_t n = check.rows(first_ca + ".q_proj.weight")) {
        config.n_bottleneck = n;
    }
    config.n_cog =
        config.encoder == encoder_type::multi_token ? check.rows("enc.queries") : (int64_t)config.target_layers.size();
    for (const auto & [value, what] :
         {std::pair<int64_t, const char *>{config.n_embd, "width of the base"},
          {config.n_enc, "width of the encoder"},
          {config.n_bottleneck, "bottleneck of the cross-attention"},
          {config.n_cog, "number of cognitive tokens"}}) {
        if (value <= 0) {
            check.fault(std::string("the ") + what + " cannot be told: the tensors that say it are missing");
        }
    }
    if (check.faults.empty()) {
        check_encoder(check, config);
        check_cross_attention(check, config);
    }
    return check.faults;
}

} // namespace metadeploy
