// Lists the devices that ggml has registered, and the places on them that can hold a model's weights.
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
    size_t memory_free = 0;  // bytes, 0 if the device does not report it
    size_t memory_total = 0; // the same
    std::vector<std::string> buffer_types;
};

std::vector<device_info> list_devices();

// A device, and a buffer type whose weights it multiplies.
struct weight_place {
    ggml_backend_dev_t device;
    ggml_backend_buffer_type_t buffer_type;
    bool is_extra; // it rearranges weights (CPU_REPACK, AMX), so that nothing else can read them
};

// Returns all places in the registry's order: each device's own buffer type, then its extra ones. llama.cpp's model
// loader chooses from these places (make_cpu_buft_list, make_gpu_buft_list). Only pinned host memory is left out, which
// the same kernels read as plain memory.
std::vector<weight_place> list_weight_places();

} // namespace metadeploy
