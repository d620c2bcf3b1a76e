#include "gguf_mutator.h"

#include "wrappers.h"

#include <algorithm>
#include <optional>
#include <random>

extern "C" size_t LLVMFuzzerMutate(uint8_t * data, size_t size, size_t max_size);

namespace metadeploy::fuzzing {

namespace {

using testing::bytes;
using testing::gguf_builder;
using testing::text_bytes;

constexpr uint32_t TYPE_STRING = 8;
constexpr uint32_t TYPE_ARRAY = 9;

size_t scalar_size(uint32_t type) {
    switch (type) {
    case 0:
    case 1:
    case 7:
        return 1;
    case 2:
    case 3:
        return 2;
    case 4:
    case 5:
    case 6:
        return 4;
    case 10:
    case 11:
    case 12:
        return 8;
    default:
        return 0;
    }
}

// size in bytes of a tensor with a type that sidecars may have; guessed for other types
size_t tensor_size(uint32_t type, int64_t n) {
    switch (type) {
    case 1:
    case 30:
        return (size_t)n * 2;
    case 8:
        return (size_t)n / 32 * 34;
    case 24:
        return (size_t)n;
    default:
        return (size_t)n * 4;
    }
}

class parser {
public:
    explicit parser(const std::string & data) : data(data) {}

    std::optional<gguf_builder> parse() {
        gguf_builder file;
        file.magic = take(4);
        file.version = number<uint32_t>();
        const auto n_tensors = number<uint64_t>();
        const auto n_keys = number<uint64_t>();
        for (uint64_t i = 0; i < n_keys && !failed; ++i) {
            const std::string name = text();
            file.keys.emplace_back(name, value());
        }
        for (uint64_t i = 0; i < n_tensors && !failed; ++i) {
            gguf_builder::tensor t;
            t.name = text();
            const auto n_dims = number<uint32_t>();
            for (uint32_t d = 0; d < n_dims && d < 8 && !failed; ++d) {
                t.shape.insert(t.shape.begin(), number<int64_t>());
            }
            t.type = number<uint32_t>();
            t.offset = (int64_t)number<uint64_t>();
            file.tensors.push_back(t);
        }
        if (failed || file.magic != "GGUF") {
            return std::nullopt;
        }
        const size_t start = (pos + 31) / 32 * 32;
        for (gguf_builder::tensor & t : file.tensors) {
            int64_t n = 1;
            for (const int64_t d : t.shape) {
                n = d > 0 && d < (1 << 20) && n < (1 << 20) ? n * d : 0;
            }
            const size_t from = std::min(data.size(), start + (size_t)std::max<int64_t>(t.offset, 0));
            t.data = data.substr(from, std::min(tensor_size(t.type, n), data.size() - from));
            t.offset = -1; // the correct offset
        }
        return file;
    }

private:
    std::string take(uint64_t n) {
        if (n > data.size() - pos) {
            failed = true;
            return std::string(std::min<uint64_t>(n, 8), '\0');
        }
        pos += n;
        return data.substr(pos - n, n);
    }

    template <typename T>
    T number() {
        const std::string raw = take(sizeof(T));
        T value{};
        std::memcpy(&value, raw.data(), std::min(raw.size(), sizeof(T)));
        return failed ? T{} : value;
    }

    std::string text() { return take(number<uint64_t>()); }

    // a value after its type
    std::string value() {
        const size_t from = pos;
        skip_value(number<uint32_t>());
        return failed ? std::string() : data.substr(from, pos - from);
    }

    void skip_value(uint32_t type) {
        if (type == TYPE_STRING) {
            text();
        } else if (type == TYPE_ARRAY) {
            const auto inner = number<uint32_t>();
            const auto n = number<uint64_t>();
            for (uint64_t i = 0; i < n && !failed; ++i) {
                if (inner == TYPE_STRING) {
                    text();
                } else {
                    skip_scalar(inner);
                }
            }
        } else {
            skip_scalar(type);
        }
    }

    void skip_scalar(uint32_t type) {
        if (const size_t n = scalar_size(type)) {
            take(n);
        } else {
            failed = true;
        }
    }

    const std::string & data;
    size_t pos = 0;
    bool failed = false;
};

const char * const KEYS[] = {
    "general.architecture",
    "general.alignment",
    "meta_spider.encoder_type",
    "meta_spider.hidden_dim",
    "meta_spider.bottleneck_dim",
    "meta_spider.num_cognitive_tokens",
    "meta_spider.ca_num_heads",
    "meta_spider.enc_num_heads",
    "meta_spider.target_layers",
    "meta_spider.cross_attn_layers",
    "meta_spider.gate_activation",
    "meta_spider.kind",
    "meta_spider.trigger",
    "meta_spider.format_version",
    "meta_spider.refusal_text",
    "meta_spider.refusal_token_ids",
    "meta_spider.refusal_bias",
    "meta_spider.inject_from",
    "meta_spider.prompt_format",
    "meta_spider.answer_suffix",
    "meta_spider.chat_template_kwargs",
    "meta_spider.base_block_count",
    "meta_spider.checkpoint_sha256",
    "daimon.hidden_dim",
};

const char * const TEXTS[] = {
    "",
    "meta-spider",
    "daimon",
    "llama",
    "selective",
    "multi_token",
    "transformer",
    "tanh",
    "always",
    "doubter",
    "goal_anchor",
    "prompt",
    "last_prompt_token",
    "auto",
    "{}",
    "[]",
    "{\"enable_thinking\": false}",
    "{\"a\": NaN}",
    "{\"a\": {\"b\": [1, 1e400]}}",
    "[[[[[[[[[[",
    "{% for m in messages %}",
    "\xff\xfe",
    "I don't know.",
};

const char * const NAMES[] = {
    "enc.layer_projectors.0.0.weight",
    "enc.layer_projectors.0.weight",
    "enc.layer_projectors.999.0.bias",
    "enc.layer_projectors.1.1.bias",
    "enc.shared_projector.weight",
    "enc.shared_projector.1.weight",
    "enc.layer_gates.0",
    "enc.layer_gates.1",
    "enc.output_proj.0.weight",
    "enc.output_proj.1.bias",
    "enc.output_norm.bias",
    "enc.queries",
    "enc.cross_attn.in_proj_weight",
    "enc.cross_attn.out_proj.bias",
    "enc.layer_pos_embed",
    "enc.input_norm.weight",
    "enc.blocks.0.q_proj.weight",
    "enc.blocks.1.ffn.0.weight",
    "enc.blocks.998.ffn.2.weight",
    "ca.0.gate",
    "ca.1.token_preference",
    "ca.1.up_proj.weight",
    "ca.999.norm.weight",
    "ca.1000.gate",
    "token_embd.weight",
};

const int64_t NUMBERS[] = {0,    1,     2,       3,      4,         5,         7,   8,         16,        31,
                           32,   33,    63,      64,     127,       255,       256, 999,       1000,      1001,
                           1024, 1025,  65536,   65537,  262144,    262145,    -1,  INT32_MAX, INT32_MIN, 1LL << 28,
                           1000, 65535, 1 << 20, 500000, 1LL << 32, 1LL << 40, -2,  INT64_MAX, INT64_MIN, 12};

const float FLOATS[] = {0.0f, -0.0f, 1.0f, -1.0f, 1e-45f, 1e30f, -1e30f, 3.4e38f, NAN, INFINITY, -INFINITY, 100.0f};

class mutator {
public:
    mutator(gguf_builder & file, unsigned seed) : file(file), random(seed) {}

    void run() {
        for (int n = 1 + below(3); n > 0; --n) {
            switch (below(14)) {
            case 0:
            case 1:
            case 2:
                change_value();
                break;
            case 3:
                file.set(pick(KEYS), any_value());
                break;
            case 4:
                erase(file.keys);
                break;
            case 5:
                swap(file.keys);
                break;
            case 6:
                retype();
                break;
            case 7:
                reshape();
                break;
            case 8:
                rename();
                break;
            case 9:
                erase(file.tensors);
                break;
            case 10:
                add_tensor();
                break;
            case 11:
                swap(file.tensors);
                break;
            default:
                change_data();
            }
        }
        if (below(40) == 0) {
            file.n_tensors = number();
        }
        if (below(40) == 0) {
            file.n_keys = number();
        }
    }

private:
    int below(int n) { return (int)(random() % (unsigned)n); }

    template <typename T, size_t N>
    const T & pick(const T (&list)[N]) {
        return list[below((int)N)];
    }

    int64_t number() { return pick(NUMBERS); }

    template <typename T>
    void erase(std::vector<T> & list) {
        if (!list.empty()) {
            list.erase(list.begin() + below((int)list.size()));
        }
    }

    template <typename T>
    void swap(std::vector<T> & list) {
        if (list.size() > 1) {
            std::swap(list[(size_t)below((int)list.size())], list[(size_t)below((int)list.size())]);
        }
    }

    std::string any_text() {
        std::string text = pick(TEXTS);
        if (below(4) == 0) {
            text.resize(text.size() + 16);
            text.resize(LLVMFuzzerMutate(reinterpret_cast<uint8_t *>(text.data()), text.size() - 16, text.size()));
        }
        if (below(50) == 0) {
            text.insert(0, (size_t)below(300), "[{\"a: "[below(6)]);
        }
        return text;
    }

    std::string scalar(uint32_t type) {
        if (type == 6) {
            return bytes(pick(FLOATS));
        }
        if (type == 7) {
            return bytes<uint8_t>((uint8_t)below(3));
        }
        return bytes<int64_t>(number()).substr(0, scalar_size(type));
    }

    std::string any_value() {
        static constexpr uint32_t types[] = {4, 5, 6, 10, 11, 7, 8, 8, 9, 9, 9, 12, 0};
        const uint32_t type = pick(types);
        if (type == TYPE_STRING) {
            return gguf_builder::str(any_text());
        }
        if (type != TYPE_ARRAY) {
            return bytes(type) + scalar(type);
        }
        static constexpr uint32_t inner_types[] = {5, 5, 5, 4, 11, 8, 6, 7};
        const uint32_t inner = pick(inner_types);
        const auto n = (uint64_t)below(below(20) == 0 ? 1100 : 5);
        std::string value = bytes(TYPE_ARRAY) + bytes(inner) + bytes(n);
        for (uint64_t i = 0; i < n; ++i) {
            value += inner == TYPE_STRING ? text_bytes(any_text())
                     : below(3) != 0      ? bytes<int64_t>(below(8)).substr(0, scalar_size(inner))
                                          : scalar(inner);
        }
        return value;
    }

    void change_value() {
        if (file.keys.empty()) {
            return;
        }
        std::string & value = file.keys[(size_t)below((int)file.keys.size())].second;
        const uint32_t type = value.size() >= 4 ? (unsigned char)value[0] : 255;
        if (below(4) == 0 || scalar_size(type) == 0) {
            value = any_value();
        } else {
            value = value.substr(0, 4) + scalar(type);
        }
    }

    gguf_builder::tensor * any_tensor() {
        return file.tensors.empty() ? nullptr : &file.tensors[(size_t)below((int)file.tensors.size())];
    }

    // data of the size that type and shape require, if that is small
    void fit(gguf_builder::tensor & t) {
        int64_t n = 1;
        for (const int64_t d : t.shape) {
            n = d > 0 && d <= (1 << 16) && n <= (1 << 16) ? n * d : 0;
        }
        t.data.resize(std::min<size_t>(tensor_size(t.type, n), 1 << 16), '\0');
    }

    void retype() {
        if (gguf_builder::tensor * t = any_tensor()) {
            static constexpr uint32_t types[] = {0, 1, 30, 8, 24, 26, 2, 12, 39, 41, 99};
            t->type = pick(types);
            fit(*t);
        }
    }

    void reshape() {
        if (gguf_builder::tensor * t = any_tensor()) {
            switch (below(4)) {
            case 0:
                t->shape.insert(t->shape.begin(), 1);
                break;
            case 1:
                std::reverse(t->shape.begin(), t->shape.end());
                break;
            case 2:
                t->shape.assign((size_t)below(5), below(2) ? number() : 1 + below(8));
                break;
            default:
                if (!t->shape.empty()) {
                    t->shape[(size_t)below((int)t->shape.size())] = below(3) ? 1 + below(66) : number();
                }
            }
            fit(*t);
        }
    }

    void rename() {
        if (gguf_builder::tensor * t = any_tensor()) {
            t->name = below(5) ? pick(NAMES) : any_text();
        }
    }

    void add_tensor() {
        gguf_builder::tensor t;
        if (gguf_builder::tensor * twin = any_tensor()) {
            t = *twin;
        } else {
            t.shape = {1 + below(8)};
        }
        t.name = pick(NAMES);
        fit(t);
        file.tensors.push_back(t);
    }

    void change_data() {
        gguf_builder::tensor * t = any_tensor();
        if (!t || t->data.size() < 4) {
            return;
        }
        const size_t at = (size_t)below((int)(t->data.size() / 4)) * 4;
        const float value = below(3) ? pick(FLOATS) : (float)(below(2001) - 1000) / 100.0f;
        if (below(6) == 0) {
            for (size_t i = 0; i + 4 <= t->data.size(); i += 4) {
                std::memcpy(t->data.data() + i, &value, 4);
            }
        }
        std::memcpy(t->data.data() + at, &value, 4);
    }

    gguf_builder & file;
    std::minstd_rand random;
};

} // namespace

size_t mutate_gguf(uint8_t * data, size_t size, size_t max_size, unsigned seed) {
    const std::string before(reinterpret_cast<const char *>(data), size);
    std::optional<gguf_builder> file = parser(before).parse();
    if (!file || seed % 10 == 0) {
        return LLVMFuzzerMutate(data, size, max_size);
    }
    mutator(*file, seed).run();
    const std::string after = file->build();
    if (after.size() > max_size) {
        return LLVMFuzzerMutate(data, size, max_size);
    }
    std::memcpy(data, after.data(), after.size());
    return after.size();
}

} // namespace metadeploy::fuzzing
