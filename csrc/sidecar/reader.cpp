#include "errors.h"
#include "log.h"
#include "parse_json.h"
#include "sidecar/head.h"
#include "sidecar/keys.h"
#include "sidecar/layout.h"
#include "sidecar/metadata.h"
#include "sidecar/rules.h"
#include "sidecar/sidecar.h"
#include "sidecar/verdict.h"

#include "ggml-cpp.h"
#include "gguf.h"
#include "llama-mmap.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <exception>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>

namespace metadeploy {

namespace {

std::optional<encoder_type> parse_encoder_type(const std::string & text) {
    for (const auto & [type, name] : ENCODER_NAMES) {
        if (text == name) {
            return type;
        }
    }
    return std::nullopt;
}

std::string all_encoder_names() {
    std::string list;
    for (const auto & [type, name] : ENCODER_NAMES) {
        list += (list.empty() ? "" : ", ") + std::string(name);
    }
    return list;
}

// Compares keys with tensors, as metadeploy/sidecar/examination.py does. The tensors are the truth (published files say
// 32 cognitive tokens and hold 11), and keys that repeat it may be absent.
class config_reader {
public:
    config_reader(const metadata & meta, std::vector<std::string> & faults) : meta(meta), faults(faults) {}

    // the encoder that the file names; a name that does not exist is a fault
    std::optional<encoder_type> declared_encoder() {
        const std::optional<std::string> name = meta.text(keys::ENCODER_TYPE);
        const std::optional<encoder_type> type = name ? parse_encoder_type(*name) : std::nullopt;
        if (name && !type) {
            fault(keys::ENCODER_TYPE, "is '" + shown(*name) + "', expected one of " + all_encoder_names());
        }
        return type;
    }

    wrapper_config read(std::optional<encoder_type> declared, const layout & dims) {
        wrapper_config config;
        settle_encoder(declared, dims, config);
        config.n_embd = agreed(keys::HIDDEN_DIM, dims.size('D'), "the width of the base");
        config.n_bottleneck = agreed(keys::BOTTLENECK_DIM, dims.size('B'), "the cross-attention's bottleneck");
        config.n_enc = dims.size('E');
        (void)meta.integer(keys::NUM_COGNITIVE_TOKENS); // its type; the number is known not to be reliable
        read_layers(dims, config);
        const auto n_target = (int64_t)config.target_layers.size();
        config.n_cog = config.encoder == encoder_type::multi_token ? dims.size('C') : n_target;
        if (dims.size('C') != 0 && n_target != 0 && dims.size('C') != config.n_cog) {
            faults.push_back(
                "the tensors have " + std::to_string(dims.size('C')) + " cognitive tokens for " +
                std::to_string(n_target) + " target layers, expected as many");
        }
        config.n_ca_head = heads(keys::CA_NUM_HEADS, true, config.n_bottleneck);
        for (const std::string & fault : table_faults(config.n_embd, config.n_cog, config.n_ca_head)) {
            faults.push_back(fault);
        }
        config.n_enc_head = heads(keys::ENC_NUM_HEADS, config.encoder != encoder_type::selective, config.n_enc);
        check_transformer_keys(dims);
        read_settings(config);
        return config;
    }

private:
    void fault(const char * key, const std::string & what) { faults.push_back("key '" + meta.name(key) + "' " + what); }

    void settle_encoder(std::optional<encoder_type> declared, const layout & dims, wrapper_config & config) {
        if (!dims.encoder) {
            if (!meta.has(keys::ENCODER_TYPE)) {
                fault(keys::ENCODER_TYPE, "is missing, and no tensor tells the encoder");
            }
            return;
        }
        config.encoder = *dims.encoder;
        if (declared && declared != dims.encoder) {
            fault(
                keys::ENCODER_TYPE, std::string("is '") + encoder_type_name(*declared) +
                                        "', but the tensors are those of a " + encoder_type_name(*dims.encoder) +
                                        " encoder");
        }
    }

    // a size that follows from the tensors, and that a key repeats
    int64_t agreed(const char * key, int64_t from_tensors, const char * what) {
        const std::optional<int64_t> declared = meta.integer(key);
        if (from_tensors == 0) {
            if (!meta.has(key)) {
                fault(key, std::string("is missing, and no tensor tells ") + what);
            }
            return declared.value_or(0);
        }
        if (declared && *declared != from_tensors) {
            fault(key, "is " + std::to_string(*declared) + ", but the tensors say " + std::to_string(from_tensors));
        }
        return from_tensors;
    }

    int64_t heads(const char * key, bool needed, int64_t width) {
        const std::optional<int64_t> n = meta.integer(key);
        if (needed && !meta.has(key)) {
            fault(key, "is missing, expected a u32");
        } else if (needed && n && (*n < 1 || width % *n != 0)) {
            fault(key, "is " + std::to_string(*n) + ", expected a divisor of the width " + std::to_string(width));
        }
        return n.value_or(0);
    }

    // Keys that repeat the shape of a transformer encoder; the framework's reader builds its graph from them.
    void check_transformer_keys(const layout & dims) {
        const std::optional<int64_t> n_enc = meta.integer(keys::ENCODER_DIM);
        const std::optional<int64_t> n_blocks = meta.integer(keys::ENCODER_NUM_BLOCKS);
        const std::optional<int64_t> expansion = meta.integer(keys::ENCODER_FFN_EXPANSION);
        const std::optional<int64_t> has_pos = meta.integer(keys::USE_LAYER_POS_EMBEDDINGS);
        if (dims.encoder != encoder_type::transformer) {
            return; // other encoders do not use these keys
        }
        const int64_t width = dims.size('E');
        const int64_t inner = dims.size('F');
        const auto check = [&](const char * key, const std::optional<int64_t> & declared, int64_t from_tensors) {
            if (declared && *declared != from_tensors) {
                fault(key, "is " + std::to_string(*declared) + ", but the tensors say " + std::to_string(from_tensors));
            }
        };
        if (width != 0) {
            check(keys::ENCODER_DIM, n_enc, width);
        }
        check(keys::ENCODER_NUM_BLOCKS, n_blocks, dims.n_blocks);
        check(keys::USE_LAYER_POS_EMBEDDINGS, has_pos, dims.layer_pos_embed ? 1 : 0);
        if (expansion && width != 0 && inner != 0 && (inner % width != 0 || inner / width != *expansion)) {
            fault(
                keys::ENCODER_FFN_EXPANSION, "is " + std::to_string(*expansion) + ", but the tensors have " +
                                                 std::to_string(inner) + " inner for " + std::to_string(width) +
                                                 " outer units");
        }
    }

    void read_layers(const layout & dims, wrapper_config & config) {
        const std::optional<std::vector<int32_t>> target = meta.layers(keys::TARGET_LAYERS);
        const bool target_known = target || !meta.has(keys::TARGET_LAYERS); // else a fault already
        config.target_layers = target.value_or(std::vector<int32_t>{});
        const auto n_target = (int64_t)config.target_layers.size();
        if (target_known && n_target != dims.n_target().value_or(n_target)) {
            fault(
                keys::TARGET_LAYERS, "names " + std::to_string(n_target) + " layers, but the tensors are for " +
                                         std::to_string(*dims.n_target()) + " target layers");
        } else if (target_known && n_target == 0) {
            fault(keys::TARGET_LAYERS, "names no layers, expected at least one");
        }
        std::optional<std::vector<int32_t>> cross = meta.layers(keys::CROSS_ATTN_LAYERS);
        config.cross_attn_layers = dims.cross_attn_layers;
        if (cross) {
            std::sort(cross->begin(), cross->end());
            if (*cross != dims.cross_attn_layers) {
                // a layer with weights that the list leaves out would be a silent no-op
                fault(keys::CROSS_ATTN_LAYERS, "names other layers than those that have tensors");
            }
        }
        if (const std::optional<int64_t> n_blocks = meta.integer(keys::BASE_BLOCK_COUNT)) {
            config.base_block_count = *n_blocks;
            for (const std::vector<int32_t> * layers : {&config.target_layers, &config.cross_attn_layers}) {
                if (!layers->empty() && *std::max_element(layers->begin(), layers->end()) >= *n_blocks) {
                    fault(
                        keys::BASE_BLOCK_COUNT, "is " + std::to_string(*n_blocks) + ", but the wrapper has layer " +
                                                    std::to_string(*std::max_element(layers->begin(), layers->end())));
                }
            }
        }
    }

    void read_settings(wrapper_config & config) {
        if (const std::string gate = meta.text(keys::GATE_ACTIVATION).value_or("tanh"); gate != "tanh") {
            fault(keys::GATE_ACTIVATION, "is '" + shown(gate) + "', expected 'tanh'");
        }
        if (const std::string trigger = meta.text(keys::TRIGGER).value_or("always"); trigger != "always") {
            fault(keys::TRIGGER, "is '" + shown(trigger) + "', expected 'always'");
        }
        const std::string from = meta.text(keys::INJECT_FROM).value_or(inject_from_name(inject_from::prompt));
        if (from == inject_from_name(inject_from::last_prompt_token)) {
            config.from = inject_from::last_prompt_token;
        } else if (from != inject_from_name(inject_from::prompt)) {
            fault(keys::INJECT_FROM, "is '" + shown(from) + "', expected one of prompt, last_prompt_token");
        }
        config.kind = meta.text(keys::KIND).value_or(config.kind);
        read_refusal(config);
        config.prompt_format = meta.text(keys::PROMPT_FORMAT).value_or("");
        config.answer_suffix = meta.text(keys::ANSWER_SUFFIX).value_or("");
        config.checkpoint_sha256 = meta.text(keys::CHECKPOINT_SHA256).value_or("");
        if (const std::optional<std::string> kwargs = meta.text(keys::CHAT_TEMPLATE_KWARGS)) {
            config.chat_template_kwargs = *kwargs;
            std::string why;
            const auto parsed = parse_json(*kwargs, why);
            if (!parsed || !parsed->is_object()) {
                fault(
                    keys::CHAT_TEMPLATE_KWARGS,
                    "is '" + shown(*kwargs) + "', expected a JSON object" + (parsed ? "" : " (" + why + ")"));
            }
        }
    }

    void read_refusal(wrapper_config & config) {
        if (const std::string text = meta.text(keys::REFUSAL_TEXT).value_or(""); !text.empty()) {
            config.refusal_text = text;
        }
        if (const std::optional<std::vector<int32_t>> tokens = meta.tokens(keys::REFUSAL_TOKEN_IDS)) {
            config.refusal_token_ids = *tokens;
            if (tokens->empty() || (int64_t)tokens->size() > MAX_REFUSAL_TOKENS) {
                fault(
                    keys::REFUSAL_TOKEN_IDS, "has " + std::to_string(tokens->size()) + " entries, expected 1 to " +
                                                 std::to_string(MAX_REFUSAL_TOKENS));
            }
        }
        config.refusal_bias = meta.number(keys::REFUSAL_BIAS).value_or(0.0f);
        if (!(std::fabs(config.refusal_bias) <= MAX_REFUSAL_BIAS)) { // not true of NaN either
            fault(keys::REFUSAL_BIAS, "is " + std::to_string(config.refusal_bias) + ", expected -100 to 100");
        }
    }

    const metadata & meta;
    std::vector<std::string> & faults;
};

// the prefix of the keys; throws if the file is no sidecar or has a later format
std::string key_prefix(const gguf_context * gguf, const std::string & subject) {
    std::vector<std::string> faults;
    metadata meta(gguf, faults);
    const std::string arch = meta.text(keys::ARCHITECTURE).value_or("");
    if (arch == keys::ARCH_META_SPIDER) {
        meta.prefix = keys::PREFIX_META_SPIDER;
    } else if (arch == keys::ARCH_DAIMON) {
        meta.prefix = keys::PREFIX_DAIMON;
    } else {
        const bool is_base = gguf_find_tensor(gguf, "token_embd.weight") >= 0;
        throw sidecar_error(
            subject + ": has architecture '" + shown(arch) + "', expected 'meta-spider' or 'daimon'" +
            (is_base ? " (a base model, not a sidecar?)" : ""));
    }
    const int64_t version = meta.integer(keys::FORMAT_VERSION).value_or(1);
    if (version < 1 || version > SIDECAR_FORMAT_VERSION) {
        faults.push_back(
            "has format version " + std::to_string(version) + ", this metadeploy reads 1 to " +
            std::to_string(SIDECAR_FORMAT_VERSION) + " (hint: update metadeploy)");
    }
    if (!faults.empty()) {
        throw sidecar_error(faults_message(subject, faults));
    }
    return meta.prefix;
}

std::vector<int64_t> torch_shape(const ggml_tensor * tensor) {
    const int n_dims = ggml_n_dims(tensor);
    std::vector<int64_t> shape(n_dims);
    for (int i = 0; i < n_dims; ++i) {
        shape[i] = tensor->ne[n_dims - 1 - i];
    }
    return shape;
}

// Where the tensors are. Anything that does not hold together here is a fault of the file, whatever the tensor is for.
struct tensor_place {
    const ggml_tensor * tensor;
    uint64_t offset; // in the file
};

std::map<std::string, tensor_place> place_tensors(
    const gguf_context * gguf, ggml_context * ggml, uint64_t file_size, std::vector<std::string> & faults) {
    std::map<std::string, tensor_place> places;
    const uint64_t data_offset = gguf_get_data_offset(gguf);
    ggml_tensor * tensor = ggml_get_first_tensor(ggml); // in the order of the file
    for (int64_t i = 0; i < gguf_get_n_tensors(gguf); ++i, tensor = ggml_get_next_tensor(ggml, tensor)) {
        const std::string name = gguf_get_tensor_name(gguf, i);
        if (name.empty() || !is_utf8(name)) {
            faults.push_back("tensor " + std::to_string(i) + " has a name that is empty or not UTF-8");
            continue;
        }
        const std::string subject = "tensor '" + name + "' ";
        const uint64_t offset = gguf_get_tensor_offset(gguf, i);
        if (!places.emplace(name, tensor_place{tensor, data_offset + offset}).second) {
            faults.push_back(subject + "is there twice");
        } else if (ggml_nelements(tensor) <= 0) {
            faults.push_back(subject + "is empty");
        } else if (
            data_offset > file_size || offset > file_size - data_offset ||
            ggml_nbytes(tensor) > file_size - data_offset - offset) {
            faults.push_back(subject + "reaches past the end of the file (truncated?)");
        }
    }
    return places;
}

bool is_readable_type(ggml_type type) {
    return type == GGML_TYPE_F32 || type == GGML_TYPE_F16 || type == GGML_TYPE_BF16 || type == GGML_TYPE_Q8_0;
}

// A file that is read, not mapped: truncating a mapped file would end the process (SIGBUS). It is opened only once, so
// that header and tensors come from the same file even if another file takes its name meanwhile.
class open_file {
public:
    open_file(const std::string & path, std::string subject_)
        : subject(std::move(subject_)), file(ggml_fopen(path.c_str(), "rb")) {
        if (!file) {
            throw sidecar_error(subject + ": cannot be opened: " + std::strerror(errno));
        }
        reader = std::make_unique<llama_file>(file.get());
    }

    FILE * get() const { return file.get(); }
    uint64_t size() const { return reader->size(); } // when it was opened

    void read(uint64_t offset, void * to, size_t n) const {
        try {
            reader->seek(offset, SEEK_SET);
            reader->read_raw(to, n);
        } catch (const std::exception & e) {
            throw sidecar_error(subject + ": cannot be read: " + e.what() + " (truncated while it was read?)");
        }
    }

private:
    struct closer {
        void operator()(FILE * open) const { std::fclose(open); }
    };
    const std::string subject;
    const std::unique_ptr<FILE, closer> file;
    std::unique_ptr<llama_file> reader;
};

void read_tensor(
    const open_file & file,
    const tensor_place & place,
    const std::string & name,
    const std::vector<int64_t> & shape,
    sidecar & out,
    std::vector<std::string> & faults) {
    const ggml_tensor * tensor = place.tensor;
    const std::string subject = std::string("tensor '") + tensor->name + "' ";
    if (!is_readable_type(tensor->type)) {
        faults.push_back(
            subject + "has type " + ggml_type_name(tensor->type) + ", expected one of f32, f16, bf16, q8_0");
        return;
    }
    const auto n = (size_t)ggml_nelements(tensor);
    const std::shared_ptr<float[]> values(new float[n]); // not zeroed first
    if (tensor->type == GGML_TYPE_F32) {
        file.read(place.offset, values.get(), n * sizeof(float));
    } else {
        const std::unique_ptr<char[]> bytes(new char[ggml_nbytes(tensor)]);
        file.read(place.offset, bytes.get(), ggml_nbytes(tensor));
        ggml_get_type_traits(tensor->type)->to_float(bytes.get(), values.get(), (int64_t)n);
    }
    out.add(name, shape, values, n);
    const auto n_bad = std::count_if(values.get(), values.get() + n, [](float x) { return !std::isfinite(x); });
    if (n_bad > 0) {
        faults.push_back(
            subject + "has " + std::to_string(n_bad) + " values that are not finite, expected none (damaged file?)");
    }
}

} // namespace

const char * encoder_type_name(encoder_type type) {
    for (const auto & [candidate, name] : ENCODER_NAMES) {
        if (candidate == type) {
            return name;
        }
    }
    return "unknown";
}

const char * inject_from_name(inject_from from) {
    return from == inject_from::prompt ? "prompt" : "last_prompt_token";
}

sidecar read_sidecar(const std::string & path) {
    const std::string subject = "sidecar '" + path + "'";
    std::error_code ec;
    const std::filesystem::path fs_path = std::filesystem::u8path(path);
    if (std::filesystem::is_directory(fs_path, ec)) {
        throw sidecar_error(subject + ": is a directory, expected a GGUF file");
    }
    if (!std::filesystem::is_regular_file(fs_path, ec)) {
        throw sidecar_error(subject + ": does not exist, expected a GGUF written by `metadeploy export`");
    }
    const open_file file(path, subject);
    const uint64_t file_size = file.size();
    check_head(file.get(), subject);

    ggml_context * ggml_raw = nullptr;
    log_capture log;
    const gguf_context_ptr gguf(gguf_init_from_file_ptr(file.get(), {/*.no_alloc =*/true, /*.ctx =*/&ggml_raw}));
    const ggml_context_ptr ggml(ggml_raw);
    if (!gguf || !ggml) {
        throw sidecar_error(subject + ": not a readable GGUF (" + log.first_line("truncated or another format") + ")");
    }

    std::vector<std::string> faults;
    metadata meta(gguf.get(), faults);
    meta.check_texts();
    if (gguf_get_alignment(gguf.get()) > (size_t)MAX_ALIGNMENT) {
        faults.push_back(
            "has general.alignment " + std::to_string(gguf_get_alignment(gguf.get())) + ", expected at most " +
            std::to_string(MAX_ALIGNMENT));
    }
    const std::map<std::string, tensor_place> places = place_tensors(gguf.get(), ggml.get(), file_size, faults);
    if (!faults.empty()) {
        throw sidecar_error(faults_message(subject, faults)); // a file that does not hold together says nothing more
    }
    meta.prefix = key_prefix(gguf.get(), subject);

    tensor_shapes shapes;
    bool has_encoder = false;
    for (const auto & [name, place] : places) {
        shapes[name] = torch_shape(place.tensor);
        has_encoder = has_encoder || name.rfind("enc.", 0) == 0;
    }
    config_reader reader(meta, faults);
    const std::optional<encoder_type> declared = reader.declared_encoder();
    const layout dims = infer_layout(shapes, declared);
    if (const std::vector<std::string> too_large = size_faults(dims); !too_large.empty()) {
        faults.insert(faults.end(), too_large.begin(), too_large.end());
        throw sidecar_error(faults_message(subject, faults));
    }
    sidecar result;
    result.path = path;
    result.config = reader.read(declared, dims);
    if (!has_encoder) {
        faults.push_back("has no encoder tensors (enc.*)");
    }
    tensor_shapes expected = expected_tensors(dims);
    result.verdict = read_verdict(meta, shapes, result.config, faults);
    if (result.verdict) {
        expected.merge(verdict_tensors(*result.verdict));
    }
    for (const std::string & fault : shape_faults(expected, shapes)) {
        faults.push_back(fault);
    }

    // tensors that are part of neither wrapper nor verdict head are ignored
    for (const auto & [name, shape] : expected) {
        if (const auto it = places.find(name); it != places.end()) {
            read_tensor(file, it->second, name, shape, result, faults);
        }
    }
    if (!faults.empty()) {
        throw sidecar_error(faults_message(subject, faults));
    }
    if (result.verdict) {
        take_verdict_weights(result);
    }
    return result;
}

} // namespace metadeploy
