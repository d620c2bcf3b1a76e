#include "inspect/devices.h"

namespace metadeploy {

namespace {

const char * type_name(ggml_backend_dev_t device) {
    switch (ggml_backend_dev_type(device)) {
    case GGML_BACKEND_DEVICE_TYPE_CPU:
        return "CPU";
    case GGML_BACKEND_DEVICE_TYPE_GPU:
        return "GPU";
    case GGML_BACKEND_DEVICE_TYPE_IGPU:
        return "IGPU";
    case GGML_BACKEND_DEVICE_TYPE_ACCEL:
        return "ACCEL";
    default:
        return "other";
    }
}

std::vector<weight_place> places_of(ggml_backend_dev_t device) {
    std::vector<weight_place> places{{device, ggml_backend_dev_buffer_type(device), false}};
    ggml_backend_reg_t reg = ggml_backend_dev_backend_reg(device);
    const auto get_extra =
        (ggml_backend_dev_get_extra_bufts_t)ggml_backend_reg_get_proc_address(reg, "ggml_backend_dev_get_extra_bufts");
    ggml_backend_buffer_type_t * extra = get_extra ? get_extra(device) : nullptr;
    for (; extra && *extra; ++extra) {
        places.push_back({device, *extra, true});
    }
    return places;
}

} // namespace

std::vector<device_info> list_devices() {
    std::vector<device_info> devices;
    for (size_t i = 0; i < ggml_backend_dev_count(); ++i) {
        ggml_backend_dev_t device = ggml_backend_dev_get(i);
        device_info info;
        info.name = ggml_backend_dev_name(device);
        info.description = ggml_backend_dev_description(device);
        info.type = type_name(device);
        info.backend = ggml_backend_reg_name(ggml_backend_dev_backend_reg(device));
        ggml_backend_dev_memory(device, &info.memory_free, &info.memory_total);
        for (const weight_place & place : places_of(device)) {
            info.buffer_types.push_back(ggml_backend_buft_name(place.buffer_type));
        }
        devices.push_back(std::move(info));
    }
    return devices;
}

std::vector<weight_place> list_weight_places() {
    std::vector<weight_place> places;
    for (size_t i = 0; i < ggml_backend_dev_count(); ++i) {
        for (const weight_place & place : places_of(ggml_backend_dev_get(i))) {
            places.push_back(place);
        }
    }
    return places;
}

} // namespace metadeploy
