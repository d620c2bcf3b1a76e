// A trained wrapper as it comes from a sidecar GGUF: settings and weights in host memory.
// docs/sidecar-format.md specifies the file; metadeploy/sidecar is the Python side of the same.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace metadeploy {

// the newest format that this reader understands
inline constexpr uint32_t SIDECAR_FORMAT_VERSION = 1;

// the refusal that the framework trains its Doubters on; used if a sidecar does not name its own text
inline constexpr char DEFAULT_REFUSAL_TEXT[] = "I'm not confident enough to answer this question accurately.";

enum class encoder_type { selective, multi_token, transformer };

struct encoder_name {
    encoder_type type;
    const char * name; // in files
};

inline constexpr encoder_name ENCODER_NAMES[] = {
    {encoder_type::selective, "selective"},
    {encoder_type::multi_token, "multi_token"},
    {encoder_type::transformer, "transformer"},
};

enum class inject_from { prompt, last_prompt_token };

struct wrapper_config {
    encoder_type encoder = encoder_type::selective;
    int64_t n_embd = 0;       // width of the base
    int64_t n_enc = 0;        // width inside the encoder
    int64_t n_bottleneck = 0; // width inside the cross-attention
    int64_t n_cog = 0;        // cognitive tokens
    int64_t n_ca_head = 0;
    int64_t n_enc_head = 0;
    std::vector<int32_t> target_layers;     // their outputs feed the encoder, in this order
    std::vector<int32_t> cross_attn_layers; // injection at their outputs, ascending
    enum inject_from from = inject_from::prompt;

    std::string kind = "doubter";                       // or goal_anchor, or what foreign files say
    bool declines() const { return kind == "doubter"; } // whether it was trained to say refusal_text
    std::string refusal_text = DEFAULT_REFUSAL_TEXT;
    std::vector<int32_t> refusal_token_ids; // its tokens as trained; empty: not said
    float refusal_bias = 0.0f;              // calibrated, on the logit of the first of them at the start of an answer
    std::string prompt_format;              // empty: not said
    std::string answer_suffix;              // empty: none
    std::string chat_template_kwargs;       // a JSON object, or empty
    std::string checkpoint_sha256;          // empty: not said
    int64_t base_block_count = 0;           // 0: not said
};

// Of the answers whose p_wrong is at most the threshold, at most max_error are wrong.
struct error_guarantee {
    float max_error;
    float threshold;
    float coverage; // of the calibration questions
};

// Judges an answer: an MLP with one hidden layer, whose inputs sidecar/verdict.h lists.
struct verdict_head {
    std::vector<int32_t> prompt_layers;
    std::vector<int32_t> answer_layers;
    bool whole_answer = false; // trained to judge whole answers, not their first sentences
    int64_t n_embd = 0;
    int64_t n_hidden = 0;
    float slope = 1.0f; // calibration of the logit
    float intercept = 0.0f;
    std::vector<error_guarantee> guarantees; // by ascending max_error
    float delta = 0.0f;                      // probability that a guarantee does not hold
    std::vector<float> mean;                 // [n_inputs]
    std::vector<float> scale;
    std::vector<float> hidden_weight; // [n_hidden, n_inputs]
    std::vector<float> hidden_bias;
    std::vector<float> output_weight; // [n_hidden]
    float output_bias = 0.0f;
};

struct host_tensor {
    std::vector<int64_t> shape; // PyTorch order, [out, in]
    std::vector<float> data;
};

// floats that belong to something else
class float_view {
public:
    float_view() = default;
    float_view(const float * first, size_t n) : first(first), n(n) {}

    const float * data() const { return first; }
    size_t size() const { return n; }
    const float * begin() const { return first; }
    const float * end() const { return first + n; }
    float operator[](size_t i) const { return first[i]; }

private:
    const float * first = nullptr;
    size_t n = 0;
};

// F32 whatever the type in the file: the encoder and the folding run once per prompt, and activations have outliers
// that the 16- and 8-bit matrix products of ggml would round (their kernels round the activations as well)
struct sidecar_tensor {
    std::vector<int64_t> shape; // PyTorch order, [out, in]
    float_view data;            // lives as long as the sidecar
};

struct sidecar {
    std::string path;
    wrapper_config config;
    std::optional<verdict_head> verdict;
    std::map<std::string, sidecar_tensor> tensors;       // "enc.<name>", "ca.<layer>.<name>"
    std::vector<std::shared_ptr<const float[]>> storage; // memory of the tensors

    void add(
        const std::string & name, std::vector<int64_t> shape, std::shared_ptr<const float[]> values, size_t n_values) {
        tensors[name] = {std::move(shape), {values.get(), n_values}};
        storage.push_back(std::move(values));
    }
};

const char * encoder_type_name(encoder_type type);

const char * inject_from_name(inject_from from);

// Reads and validates the whole file. Throws sidecar_error that lists every fault found.
sidecar read_sidecar(const std::string & path);

} // namespace metadeploy
