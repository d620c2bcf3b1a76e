// The devices that ggml has registered, and where a model's weights can lie on them.
#pragma once

#include "ggml-backend.h"

#include <string>
#include <vector>

namespace metadeploy {

struct device_info {
    std::string name;
    std::string description;
    std::string type; // CPU, GPU, IGPU, ACCEL, META
    std::string backend;
    size_t memory_free = 0;  // bytes, 0 where the device does not tell
    size_t memory_total = 0; // the same
    std::vector<std::string> buffer_types;
};

std::vector<device_info> list_devices();

// A device, and a buffer type that it multiplies weights from.
struct weight_place {
    ggml_backend_dev_t device;
    ggml_backend_buffer_type_t buffer_type;
    bool is_extra; // weights are rearranged there (CPU_REPACK, AMX): nothing else can read them
};

// All of them, in the registry's order: each device's own buffer type, then its extra ones. That is what the model
// loader of llama.cpp chooses from (make_cpu_buft_list, make_gpu_buft_list), less pinned host memory, which the same
// kernels read as plain memory.
std::vector<weight_place> list_weight_places();

} // namespace metadeploy
