#include "check.h"
#include "errors.h"
#include "wrappers.h"

#include <cmath>
#include <limits>

using namespace metadeploy;
using namespace metadeploy::testing;

namespace {

const encoder_type ENCODERS[] = {encoder_type::selective, encoder_type::multi_token, encoder_type::transformer};

sidecar read(const gguf_builder & file) {
    const temp_dir dir;
    return read_sidecar(dir.write("x.gguf", file.build()));
}

gguf_builder valid(encoder_type encoder = encoder_type::selective) {
    return to_gguf(random_wrapper(encoder));
}

} // namespace

TEST(what_is_written_is_read) {
    for (const encoder_type encoder : ENCODERS) {
        const sidecar source = random_wrapper(encoder);
        const sidecar found = read(to_gguf(source));
        CHECK_EQ(std::string(encoder_type_name(found.config.encoder)), encoder_type_name(encoder));
        CHECK_EQ(found.config.n_embd, source.config.n_embd);
        CHECK_EQ(found.config.n_enc, source.config.n_enc);
        CHECK_EQ(found.config.n_bottleneck, source.config.n_bottleneck);
        CHECK_EQ(found.config.n_cog, source.config.n_cog); // not the 32 of the key
        CHECK(found.config.target_layers == source.config.target_layers);
        CHECK_EQ(found.config.refusal_text, DEFAULT_REFUSAL_TEXT);
        CHECK(found.config.refusal_token_ids == std::vector<int32_t>({5, 0, 2}));
        CHECK_EQ(found.config.refusal_bias, 1.5f);
        CHECK_EQ(found.tensors.size(), source.tensors.size());
        for (const auto & [name, tensor] : source.tensors) {
            CHECK(found.tensors.at(name).shape == tensor.shape);
            const float_view values = found.tensors.at(name).data;
            CHECK(std::equal(values.begin(), values.end(), tensor.data.begin(), tensor.data.end()));
        }
    }
}

TEST(every_truncation_is_an_error) {
    const temp_dir dir;
    const std::string whole = valid().build();
    for (size_t length = 0; length + 32 < whole.size(); length += length < 256 ? 1 : 17) {
        const std::string path = dir.write("x.gguf", whole.substr(0, length));
        CHECK_THROWS(sidecar_error, read_sidecar(path), "sidecar '" + path + "': ");
    }
}

TEST(every_missing_tensor_is_named) {
    for (const encoder_type encoder : ENCODERS) {
        for (const auto & [name, tensor] : random_wrapper(encoder).tensors) {
            gguf_builder file = valid(encoder);
            file.at(name).name = "other";
            if (name == "enc.layer_pos_embed") {
                CHECK(read(file).tensors.count(name) == 0); // optional
            } else {
                CHECK_THROWS(sidecar_error, read(file), "tensor '" + name + "' is missing");
            }
        }
    }
}

TEST(all_faults_at_once) {
    gguf_builder file = valid();
    file.at("ca.1.gate").name = "lost";
    file.at("ca.3.k_proj.weight").shape = {24, 8};
    file.at("enc.output_norm.bias").data.replace(0, 4, bytes(std::numeric_limits<float>::quiet_NaN()));
    file.set("meta_spider.hidden_dim", gguf_builder::u32(2048));
    file.set("meta_spider.ca_num_heads", gguf_builder::u32(3));
    CHECK_THROWS(
        sidecar_error, read(file), "5 faults", "'ca.1.gate' is missing, expected shape [1]",
        "'ca.3.k_proj.weight' has shape [24, 8], expected [8, 24]", "'enc.output_norm.bias' has 1 values",
        "'meta_spider.hidden_dim' is 2048, but the tensors say 24", "'meta_spider.ca_num_heads' is 3");
}

TEST(keys) {
    const auto with = [](const std::string & key, const std::string & value) {
        gguf_builder file = valid();
        file.set(key, value);
        return file;
    };
    using b = gguf_builder;
    CHECK_THROWS(sidecar_error, read(with("general.architecture", b::str("llama"))), "architecture 'llama'");
    CHECK_THROWS(sidecar_error, read(with("general.architecture", b::u32(1))), "architecture ''");
    CHECK_THROWS(sidecar_error, read(with("general.alignment", b::str("32"))), "general.alignment");
    CHECK_THROWS(sidecar_error, read(with("general.alignment", b::u32(24))), "24 is not a power of 2");
    CHECK_THROWS(sidecar_error, read(with("general.alignment", b::i32s({32}))), "general.alignment");
    CHECK_THROWS(sidecar_error, read(with("meta_spider.format_version", b::u32(2))), "format version 2");
    CHECK_THROWS(sidecar_error, read(with("meta_spider.format_version", b::u32(0))), "format version 0");
    CHECK_THROWS(sidecar_error, read(with("meta_spider.encoder_type", b::str("none"))), "'none', expected one of");
    CHECK_THROWS(sidecar_error, read(with("meta_spider.encoder_type", b::str("transformer"))), "of a selective");
    CHECK_THROWS(sidecar_error, read(with("meta_spider.gate_activation", b::str("relu"))), "expected 'tanh'");
    CHECK_THROWS(sidecar_error, read(with("meta_spider.inject_from", b::str("never"))), "'never'");
    CHECK_THROWS(sidecar_error, read(with("meta_spider.refusal_text", b::str("\xff"))), "not UTF-8");
    CHECK_THROWS(sidecar_error, read(with("meta_spider.refusal_text", b::u32(1))), "has type u32, expected str");
    CHECK_THROWS(sidecar_error, read(with("meta_spider.refusal_token_ids", b::u32(1))), "has type u32, expected [i32]");
    CHECK_THROWS(
        sidecar_error, read(with("meta_spider.refusal_token_ids", b::i32s({1, -2}))), "has -2, expected token");
    CHECK_THROWS(sidecar_error, read(with("meta_spider.refusal_token_ids", b::i32s({}))), "has 0 entries");
    CHECK_THROWS(
        sidecar_error, read(with("meta_spider.refusal_token_ids", b::i32s(std::vector<int32_t>(1025, 1)))),
        "has 1025 entries, expected 1 to 1024");
    CHECK_THROWS(sidecar_error, read(with("meta_spider.refusal_bias", b::u32(1))), "has type u32, expected f32");
    CHECK_THROWS(sidecar_error, read(with("meta_spider.refusal_bias", b::f32(-101.0f))), "expected -100 to 100");
    CHECK_THROWS(sidecar_error, read(with("meta_spider.refusal_bias", b::f32(NAN))), "expected -100 to 100");
    CHECK_THROWS(sidecar_error, read(with("meta_spider.hidden_dim", b::str("24"))), "has type str, expected u32");
    CHECK_THROWS(sidecar_error, read(with("meta_spider.hidden_dim", b::u32(0x80000000u))), "expected 0 to 2147483647");
    CHECK_THROWS(sidecar_error, read(with("meta_spider.target_layers", b::u32(2))), "has type u32, expected [i32]");
    CHECK_THROWS(sidecar_error, read(with("meta_spider.target_layers", b::i32s({2, 1}))), "names 2 layers");
    CHECK_THROWS(sidecar_error, read(with("meta_spider.target_layers", b::i32s({2, 1, 1}))), "names layer 1 twice");
    CHECK_THROWS(sidecar_error, read(with("meta_spider.target_layers", b::i32s({2, 1, -1}))), "has layer -1");
    CHECK_THROWS(sidecar_error, read(with("meta_spider.target_layers", b::i32s({2, 1, 1000}))), "has layer 1000");
    CHECK_THROWS(sidecar_error, read(with("meta_spider.cross_attn_layers", b::i32s({1}))), "other layers");
    CHECK_THROWS(sidecar_error, read(with("meta_spider.base_block_count", b::u32(4))), "the wrapper has layer 4");
    CHECK_THROWS(sidecar_error, read(with("meta_spider.chat_template_kwargs", b::str("[]"))), "a JSON object");
    CHECK_THROWS(sidecar_error, read(with("meta_spider.chat_template_kwargs", b::str("{"))), "a JSON object");

    const auto transformer = [](const std::string & key, const std::string & value) {
        gguf_builder file = valid(encoder_type::transformer);
        file.set(key, value);
        return file;
    };
    CHECK_THROWS(sidecar_error, read(transformer("meta_spider.encoder_dim", b::u32(5))), "encoder_dim' is 5, but");
    CHECK_THROWS(
        sidecar_error, read(transformer("meta_spider.encoder_num_blocks", b::u32(0))),
        "encoder_num_blocks' is 0, but the tensors say");
    CHECK_THROWS(
        sidecar_error, read(transformer("meta_spider.encoder_ffn_expansion", b::u32(0x7fffffff))),
        "encoder_ffn_expansion' is 2147483647, but the tensors have");
    CHECK_THROWS(
        sidecar_error, read(transformer("meta_spider.use_layer_pos_embeddings", b::u32(0))),
        "use_layer_pos_embeddings' is 0, but the tensors say 1");
    CHECK_EQ(read(with("meta_spider.encoder_num_blocks", b::u32(9))).config.n_embd, 24); // a key of another encoder

    gguf_builder headless = valid();
    headless.remove("meta_spider.ca_num_heads");
    CHECK_THROWS(sidecar_error, read(headless), "'meta_spider.ca_num_heads' is missing");
    CHECK(read(with("meta_spider.cross_attn_layers", b::i32s({3, 1}))).config.cross_attn_layers[0] == 1);
}

TEST(structure) {
    const auto broken = [](const auto & change) {
        gguf_builder file = valid();
        change(file);
        return file;
    };
    CHECK_THROWS(sidecar_error, read(broken([](auto & f) { f.magic = "GGML"; })), "not a readable GGUF");
    CHECK_THROWS(sidecar_error, read(broken([](auto & f) { f.version = 1; })), "GGUFv1");
    CHECK_THROWS(sidecar_error, read(broken([](auto & f) { f.version = 4; })), "version 4");
    CHECK_THROWS(
        sidecar_error, read(broken([](auto & f) { f.n_tensors = INT64_MAX; })), "tensors, expected at most 16384");
    CHECK_THROWS(
        sidecar_error, read(broken([](auto & f) { f.n_keys = INT64_MAX; })), "metadata keys, expected at most 4096");
    CHECK_THROWS(sidecar_error, read(broken([](auto & f) { f.keys.push_back(f.keys[0]); })), "duplicate key");
    CHECK_THROWS(sidecar_error, read(broken([](auto & f) { f.tensors.push_back(f.tensors[0]); })), "duplicate tensor");
    CHECK_THROWS(sidecar_error, read(broken([](auto & f) { f.tensors[0].name = ""; })), "empty or not UTF-8");
    CHECK_THROWS(sidecar_error, read(broken([](auto & f) { f.tensors[0].name = "\xff"; })), "empty or not UTF-8");
    CHECK_THROWS(
        sidecar_error, read(broken([](auto & f) { f.tensors[0].name = std::string(64, 'x'); })),
        "64 bytes for the name of tensor 0, expected at most 63");
    CHECK_THROWS(sidecar_error, read(broken([](auto & f) { f.tensors.back().shape = {0}; })), "is empty");
    CHECK_THROWS(
        sidecar_error, read(broken([](auto & f) { f.tensors[0].shape = {-4}; })), "invalid number of elements");
    CHECK_THROWS(
        sidecar_error, read(broken([](auto & f) { f.tensors[0].shape = {1ll << 40, 1ll << 40}; })), "overflow");
    // ggml would end the process after these
    CHECK_THROWS(sidecar_error, read(broken([](auto & f) { f.tensors.back().shape = {INT64_MAX}; })), "overflow");
    CHECK_THROWS(
        sidecar_error, read(broken([](auto & f) { f.tensors.back().shape = {7, INT64_MAX / 7}; })), "overflow");
    CHECK_THROWS(
        sidecar_error, read(broken([](auto & f) { f.tensors.back().shape = {4, 0, 1ll << 60, 4}; })), "is empty");
    CHECK_THROWS(
        sidecar_error, read(broken([](auto & f) { f.tensors.back().shape = {1 << 20}; })), "past the end of the file");
    CHECK_THROWS(sidecar_error, read(broken([](auto & f) { f.tensors[1].offset = 0; })), "expected");
    CHECK_THROWS(sidecar_error, read(broken([](auto & f) { f.tensors[1].offset = INT64_MAX; })), "expected");
    CHECK_THROWS(sidecar_error, read(broken([](auto & f) { f.tensors[0].type = 99; })), "invalid ggml type 99");
    CHECK_THROWS(sidecar_error, read(broken([](auto & f) { f.tensors[0].type = 26; })), "expected one of f32, f16");
    CHECK_THROWS(sidecar_error, read(gguf_builder()), "architecture ''");
    CHECK_THROWS(sidecar_error, read_sidecar("/no/such/file"), "does not exist");
    CHECK_THROWS(sidecar_error, read_sidecar(std::filesystem::temp_directory_path().u8string()), "is a directory");
}

TEST(strangers_are_ignored) {
    gguf_builder file = valid();
    file.tensors.push_back({"enc.shared_projector.weight", {3, 5}, std::string(60, '\xff')}); // NaN
    file.tensors.push_back({"ca.1.more", {4}, std::string(16, '\xff')});
    const sidecar found = read(file);
    CHECK(found.tensors.count("enc.shared_projector.weight") == 0);
    CHECK(found.tensors.count("ca.1.more") == 0);
}
