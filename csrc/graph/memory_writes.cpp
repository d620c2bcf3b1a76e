#include "graph/memory_writes.h"

#include "ggml-backend.h"
#include "ggml-impl.h"

#include <algorithm>
#include <utility>

namespace metadeploy {

namespace {

uint64_t mix(uint64_t hash, uint64_t value) {
    hash = (hash ^ value) * 0x9E3779B97F4A7C15u;
    return hash ^ (hash >> 29);
}

const ggml_tensor * root_of(const ggml_tensor * tensor) {
    return tensor->view_src ? tensor->view_src : tensor;
}

bool only_views(const ggml_tensor * node) {
    switch (node->op) {
    case GGML_OP_NONE:
    case GGML_OP_VIEW:
    case GGML_OP_RESHAPE:
    case GGML_OP_PERMUTE:
    case GGML_OP_TRANSPOSE:
        return true;
    default:
        return false;
    }
}

std::vector<int64_t> elements_of(const ggml_tensor * index) {
    std::vector<int64_t> values((size_t)ggml_nelements(index));
    if (index->type == GGML_TYPE_I64) {
        ggml_backend_tensor_get(index, values.data(), 0, ggml_nbytes(index));
    } else {
        std::vector<int32_t> narrow(values.size());
        ggml_backend_tensor_get(index, narrow.data(), 0, ggml_nbytes(index));
        std::copy(narrow.begin(), narrow.end(), values.begin());
    }
    return values;
}

} // namespace

memory_writes::memory_writes(ggml_cgraph * gf, const std::function<bool(const ggml_tensor * memory)> & ignore) {
    // a state that begins is zeroed first, in the place that it is written to: that is one place, not two
    std::set<std::pair<const ggml_tensor *, size_t>> written;
    for (int i = 0; i < ggml_graph_n_nodes(gf); ++i) {
        const ggml_tensor * node = ggml_graph_node(gf, i);
        const ggml_tensor * memory = node->view_src; // tensors that the graph computes have no buffer yet
        if (!memory || !memory->buffer || only_views(node) || ggml_nelements(node) == 0 || ignore(memory)) {
            continue;
        }
        memories.insert(memory);
        if (node->op != GGML_OP_SET_ROWS) {
            written.emplace(memory, node->view_offs);
            continue;
        }
        tables = mix(mix(tables, (uintptr_t)memory), node->view_offs);
        const ggml_tensor * index = root_of(node->src[1]);
        known = known && (index->flags & GGML_TENSOR_FLAG_INPUT);
        const auto it = std::find(indices.begin(), indices.end(), index);
        tables = mix(tables, it - indices.begin());
        if (it == indices.end()) {
            indices.push_back(index);
        }
    }
    for (const auto & [memory, offset] : written) {
        addresses = mix(mix(addresses, (uintptr_t)memory), offset);
    }
}

std::vector<uint64_t> memory_writes::cell_fingerprints(int64_t n_tokens) const {
    std::vector<uint64_t> hashes((size_t)n_tokens, tables);
    for (const ggml_tensor * index : indices) {
        const std::vector<int64_t> values = elements_of(index);
        // rows that are not one share for each token count for all of them
        const size_t n_share = values.size() % hashes.size() == 0 ? values.size() / hashes.size() : 0;
        for (size_t i = 0; i < hashes.size(); ++i) {
            const auto first = values.begin() + (std::ptrdiff_t)(i * n_share);
            const auto last = n_share > 0 ? first + (std::ptrdiff_t)n_share : values.end();
            for (auto value = first; value != last; ++value) {
                hashes[i] = mix(hashes[i], (uint64_t)*value);
            }
        }
    }
    return hashes;
}

bool memory_writes::read_by(ggml_cgraph * gf) const {
    for (int i = 0; i < ggml_graph_n_nodes(gf); ++i) {
        const ggml_tensor * node = ggml_graph_node(gf, i);
        for (const ggml_tensor * src : node->src) {
            if (src && memories.count(root_of(src)) != 0) {
                return true;
            }
        }
    }
    return false;
}

void drop_nodes(ggml_cgraph * gf) {
    std::vector<ggml_tensor *> inputs;
    for (int i = 0; i < gf->n_leafs; ++i) {
        if (gf->leafs[i]->flags & GGML_TENSOR_FLAG_INPUT) {
            inputs.push_back(gf->leafs[i]);
        }
    }
    ggml_graph_clear(gf);
    for (ggml_tensor * input : inputs) {
        ggml_build_forward_expand(gf, input);
    }
}

} // namespace metadeploy
