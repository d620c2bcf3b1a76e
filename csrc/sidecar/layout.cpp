#include "sidecar/layout.h"

#include <algorithm>
#include <cctype>
#include <iterator>
#include <set>
#include <sstream>

namespace metadeploy {

namespace {

// a name, counted with {i} (target layer), {b} (transformer block) or {layer}, and its dimensions in symbols
struct row {
    const char * name;
    const char * shape;
};

using table = std::vector<row>;

// "enc.layer_projectors.{i}" or "enc.shared_projector", in either form
const table PRENORM_PROJECTOR = {
    {"enc.layer_projectors.{i}.0.weight", "D"},
    {"enc.layer_projectors.{i}.0.bias", "D"},
    {"enc.layer_projectors.{i}.1.weight", "E D"},
    {"enc.layer_projectors.{i}.1.bias", "E"},
};
const table PLAIN_PROJECTOR = {{"enc.layer_projectors.{i}.weight", "E D"}};
const table SHARED_PRENORM_PROJECTOR = {
    {"enc.shared_projector.0.weight", "D"},
    {"enc.shared_projector.0.bias", "D"},
    {"enc.shared_projector.1.weight", "E D"},
    {"enc.shared_projector.1.bias", "E"},
};
const table SHARED_PLAIN_PROJECTOR = {{"enc.shared_projector.weight", "E D"}};

const table OUTPUT = {
    {"enc.output_proj.0.weight", "E"},   {"enc.output_proj.0.bias", "E"}, {"enc.output_proj.1.weight", "D E"},
    {"enc.output_proj.3.weight", "D D"}, {"enc.output_norm.weight", "D"}, {"enc.output_norm.bias", "D"},
};
const table OUTPUT_BIASES = {{"enc.output_proj.1.bias", "D"}, {"enc.output_proj.3.bias", "D"}};

const table SELECTIVE = {{"enc.layer_gates.{i}", "1"}};

const table MULTI_TOKEN = {
    {"enc.queries", "C E"},
    {"enc.cross_attn.in_proj_weight", "3E E"},
    {"enc.cross_attn.in_proj_bias", "3E"},
    {"enc.cross_attn.out_proj.weight", "E E"},
    {"enc.cross_attn.out_proj.bias", "E"},
};

const table LAYER_POS_EMBED = {{"enc.layer_pos_embed", "N E"}};
const table TRANSFORMER = {
    {"enc.input_norm.weight", "E"},           {"enc.input_norm.bias", "E"},
    {"enc.blocks.{b}.norm_attn.weight", "E"}, {"enc.blocks.{b}.norm_attn.bias", "E"},
    {"enc.blocks.{b}.q_proj.weight", "E E"},  {"enc.blocks.{b}.k_proj.weight", "E E"},
    {"enc.blocks.{b}.v_proj.weight", "E E"},  {"enc.blocks.{b}.o_proj.weight", "E E"},
    {"enc.blocks.{b}.norm_ffn.weight", "E"},  {"enc.blocks.{b}.norm_ffn.bias", "E"},
    {"enc.blocks.{b}.ffn.0.weight", "F E"},   {"enc.blocks.{b}.ffn.2.weight", "E F"},
};

const table CROSS_ATTENTION = {
    {"ca.{layer}.norm.weight", "D"},        {"ca.{layer}.norm.bias", "D"},
    {"ca.{layer}.down_proj.weight", "B D"}, {"ca.{layer}.q_proj.weight", "B B"},
    {"ca.{layer}.k_proj.weight", "B D"},    {"ca.{layer}.v_proj.weight", "B D"},
    {"ca.{layer}.up_proj.weight", "D B"},   {"ca.{layer}.gate", "1"},
    {"ca.{layer}.token_preference", "C"},
};

// name beginnings that only one encoder has
const std::pair<const char *, encoder_type> TELLTALES[] = {
    {"enc.layer_gates.", encoder_type::selective},      {"enc.queries", encoder_type::multi_token},
    {"enc.cross_attn.", encoder_type::multi_token},     {"enc.blocks.", encoder_type::transformer},
    {"enc.input_norm.", encoder_type::transformer},     {"enc.shared_projector.", encoder_type::transformer},
    {"enc.layer_pos_embed", encoder_type::transformer},
};

// names that are counted, and the mark that replaces the number in a table
const std::pair<const char *, const char *> COUNTED[] = {
    {"ca.", "{layer}"}, {"enc.layer_projectors.", "{i}"}, {"enc.layer_gates.", "{i}"}, {"enc.blocks.", "{b}"}};

// missing tensors that a message names one by one
constexpr size_t MOST_NAMED = 12;

bool starts_with(const std::string & text, const std::string & start) {
    return text.compare(0, start.size(), start) == 0;
}

struct counted_name {
    std::string stem;    // one of COUNTED, empty: the name is not counted
    int32_t number = 0;  // at most 999: a hostile name must not make us enumerate millions of expected tensors
    std::string pattern; // the name as in the tables
};

counted_name parse_counted(const std::string & name) {
    for (const auto & [stem, marker] : COUNTED) {
        if (!starts_with(name, stem)) {
            continue;
        }
        const size_t first = std::string(stem).size();
        size_t end = first;
        while (end < name.size() && std::isdigit((unsigned char)name[end])) {
            ++end;
        }
        const size_t n_digits = end - first;
        const bool canonical = n_digits == 1 || (n_digits > 1 && n_digits <= 3 && name[first] != '0');
        if (canonical && (end == name.size() || name[end] == '.')) {
            return {stem, std::stoi(name.substr(first, n_digits)), stem + (marker + name.substr(end))};
        }
    }
    return {"", 0, name};
}

std::vector<std::string> symbols(const char * shape) {
    std::istringstream words(shape);
    return {std::istream_iterator<std::string>(words), {}};
}

table table_of(const layout & dims) {
    table result;
    const auto add = [&](const table & part) { result.insert(result.end(), part.begin(), part.end()); };
    if (dims.encoder) {
        if (dims.shared_projector) {
            add(dims.prenorm_projector ? SHARED_PRENORM_PROJECTOR : SHARED_PLAIN_PROJECTOR);
        } else {
            add(dims.prenorm_projector ? PRENORM_PROJECTOR : PLAIN_PROJECTOR);
        }
        switch (*dims.encoder) {
        case encoder_type::selective:
            add(SELECTIVE);
            add(OUTPUT_BIASES);
            break;
        case encoder_type::multi_token:
            add(MULTI_TOKEN);
            add(OUTPUT_BIASES);
            break;
        case encoder_type::transformer:
            add(dims.layer_pos_embed ? LAYER_POS_EMBED : table{});
            add(TRANSFORMER);
            break;
        }
        add(OUTPUT);
    }
    add(CROSS_ATTENTION);
    return result;
}

// without outer dimensions of 1
std::vector<int64_t> significant(const std::vector<int64_t> & shape) {
    const auto first = std::find_if(shape.begin(), shape.end(), [](int64_t n) { return n != 1; });
    return {first == shape.end() && !shape.empty() ? shape.end() - 1 : first, shape.end()};
}

std::string shape_text(const std::vector<int64_t> & shape) {
    std::string text = "[";
    for (size_t i = 0; i < shape.size(); ++i) {
        text += (i ? ", " : "") + (shape[i] == 0 ? "?" : std::to_string(shape[i]));
    }
    return text + "]";
}

// the size of each symbol, by majority of the tensors
std::map<char, int64_t> infer_sizes(const layout & dims, const tensor_shapes & shapes) {
    std::map<std::string, std::vector<std::string>> known;
    for (const row & entry : table_of(dims)) {
        known[entry.name] = symbols(entry.shape);
    }
    std::map<char, std::map<int64_t, int>> votes;
    for (const auto & [name, shape] : shapes) {
        const auto it = known.find(parse_counted(name).pattern);
        const std::vector<int64_t> inner = significant(shape);
        if (it == known.end() || inner.size() > it->second.size()) {
            continue;
        }
        std::vector<int64_t> full(it->second.size() - inner.size(), 1);
        full.insert(full.end(), inner.begin(), inner.end());
        for (size_t i = 0; i < full.size(); ++i) {
            if (const std::string & symbol = it->second[i]; symbol.size() == 1 && symbol != "1") {
                ++votes[symbol[0]][full[i]];
            }
        }
    }
    std::map<char, int64_t> sizes;
    for (const auto & [symbol, count] : votes) {
        const auto winner = std::max_element(
            count.begin(), count.end(), [](const auto & a, const auto & b) { return a.second < b.second; });
        sizes[symbol] = winner->first;
    }
    return sizes;
}

} // namespace

int64_t layout::size(char symbol) const {
    const auto it = sizes.find(symbol);
    return it == sizes.end() ? 0 : it->second;
}

std::optional<int64_t> layout::n_target() const {
    if (n_projectors) {
        return n_projectors;
    }
    if (const int64_t n = size('N')) {
        return n;
    }
    // with a shared projector and no embedding, C = N is what remains
    const int64_t n_cog = encoder == encoder_type::transformer ? size('C') : 0;
    return n_cog > 0 ? std::optional<int64_t>(n_cog) : std::nullopt;
}

layout infer_layout(const tensor_shapes & shapes, std::optional<encoder_type> declared) {
    layout dims;
    dims.encoder = declared;
    const auto any = [&](const std::string & start) {
        const auto it = shapes.lower_bound(start);
        return it != shapes.end() && starts_with(it->first, start);
    };
    for (const auto & [start, type] : TELLTALES) {
        if (any(start)) {
            dims.encoder = type;
            break;
        }
    }
    std::set<int32_t> ca_layers;
    bool plain = shapes.count("enc.shared_projector.weight") != 0;
    for (const auto & [name, shape] : shapes) {
        const counted_name counted = parse_counted(name);
        if (counted.stem == "ca.") {
            ca_layers.insert(counted.number);
        } else if (counted.stem == "enc.blocks.") {
            dims.n_blocks = std::max<int64_t>(dims.n_blocks, counted.number + 1);
        } else if (!counted.stem.empty()) {
            dims.n_projectors = std::max<int64_t>(dims.n_projectors.value_or(0), counted.number + 1);
            plain = plain || counted.pattern == PLAIN_PROJECTOR[0].name;
        }
    }
    if (dims.encoder && dims.encoder != encoder_type::transformer && !dims.n_projectors && any("enc.")) {
        dims.n_projectors = 0; // these two cannot share a projector: if there is none, all are missing
    }
    dims.cross_attn_layers.assign(ca_layers.begin(), ca_layers.end());
    dims.prenorm_projector = !plain || dims.encoder == encoder_type::selective;
    dims.shared_projector =
        any("enc.shared_projector.") && !dims.n_projectors && dims.encoder == encoder_type::transformer;
    dims.layer_pos_embed = shapes.count("enc.layer_pos_embed") != 0;
    dims.sizes = infer_sizes(dims, shapes);
    return dims;
}

tensor_shapes expected_tensors(const layout & dims) {
    tensor_shapes expected;
    for (const row & entry : table_of(dims)) {
        std::vector<int64_t> shape;
        for (const std::string & symbol : symbols(entry.shape)) {
            shape.push_back(symbol == "1" ? 1 : (symbol == "3E" ? 3 : 1) * dims.size(symbol.back()));
        }
        const std::string pattern = entry.name;
        const size_t open = pattern.find('{');
        if (open == std::string::npos) {
            expected[pattern] = shape;
            continue;
        }
        const size_t close = pattern.find('}');
        const auto add = [&](int64_t number) {
            expected[pattern.substr(0, open) + std::to_string(number) + pattern.substr(close + 1)] = shape;
        };
        if (pattern[open + 1] == 'l') {
            for (const int32_t il : dims.cross_attn_layers) {
                add(il);
            }
        } else {
            const int64_t n = pattern[open + 1] == 'b' ? dims.n_blocks : dims.n_target().value_or(0);
            for (int64_t i = 0; i < n; ++i) {
                add(i);
            }
        }
    }
    return expected;
}

std::vector<std::string> shape_faults(const tensor_shapes & expected, const tensor_shapes & shapes) {
    std::vector<std::string> faults;
    std::vector<std::string> wrong;
    size_t n_missing = 0;
    std::string last_missing;
    for (const auto & [name, shape] : expected) {
        const auto it = shapes.find(name);
        if (it == shapes.end()) {
            last_missing = name;
            if (++n_missing <= MOST_NAMED) {
                faults.push_back("tensor '" + name + "' is missing, expected shape " + shape_text(shape));
            }
        } else if (significant(it->second) != significant(shape)) {
            wrong.push_back(
                "tensor '" + name + "' has shape " + shape_text(it->second) + ", expected " + shape_text(shape));
        }
    }
    if (n_missing > MOST_NAMED) {
        faults.push_back(
            std::to_string(n_missing - MOST_NAMED) + " more tensors are missing, the last of them '" + last_missing +
            "'");
    }
    faults.insert(faults.end(), wrong.begin(), wrong.end());
    return faults;
}

} // namespace metadeploy
