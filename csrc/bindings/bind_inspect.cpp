#include "bindings/bindings.h"
#include "bindings/gil.h"
#include "build_info.h"
#include "errors.h"
#include "inspect/devices.h"
#include "inspect/matmul_probe.h"
#include "inspect/weight_types.h"

#include <string_view>

namespace py = pybind11;

namespace metadeploy {

namespace {

using float_array = py::array_t<float, py::array::c_style | py::array::forcecast>;

py::dict as_dict(const build_info & info) {
    py::dict dict;
    dict["id"] = info.id;
    dict["version"] = info.version;
    dict["compiler"] = info.compiler;
    dict["build_type"] = info.build_type;
    dict["system"] = info.system;
    dict["flags"] = to_str(info.flags);
    dict["llama_cpp"] = info.llama_cpp;
    dict["ggml"] = info.ggml;
    dict["patches"] = info.patches;
    dict["options"] = info.options;
    dict["features"] = info.features;
    return dict;
}

py::dict as_dict(const device_info & info) {
    py::dict dict;
    dict["name"] = info.name;
    dict["description"] = to_str(info.description);
    dict["type"] = info.type;
    dict["backend"] = info.backend;
    dict["memory_free"] = info.memory_free;
    dict["memory_total"] = info.memory_total;
    dict["buffer_types"] = info.buffer_types;
    return dict;
}

py::dict as_dict(const weight_place & place) {
    py::dict dict;
    dict["device"] = ggml_backend_dev_name(place.device);
    dict["buffer_type"] = ggml_backend_buft_name(place.buffer_type);
    return dict;
}

template <typename Infos>
py::list as_list(const Infos & infos) {
    py::list list;
    for (const auto & info : infos) {
        list.append(as_dict(info));
    }
    return list;
}

// matmul_probe with checks of its arguments: Python cannot make it end the process
class checked_probe {
public:
    explicit checked_probe(size_t place) : impl(at(place)) {}

    bool takes(const std::string & type, int64_t n_in, int64_t n_out) const {
        const weight_type wanted = find_weight_type(type);
        check(wanted, n_in);
        if (n_out < 1) {
            throw error("n_out is " + std::to_string(n_out) + ", expected at least 1");
        }
        return impl.takes(wanted, n_in, n_out);
    }

    void load(const std::string & type, int64_t n_in, const py::bytes & rows) {
        const weight_type wanted = find_weight_type(type);
        check(wanted, n_in);
        const std::string_view data = rows;
        if (data.empty() || data.size() % ggml_row_size(wanted.type, n_in) != 0) {
            throw error(
                "weight has " + std::to_string(data.size()) + " bytes, expected whole rows of " +
                std::to_string(ggml_row_size(wanted.type, n_in)));
        }
        const int64_t n_out = (int64_t)(data.size() / ggml_row_size(wanted.type, n_in));
        if (!impl.takes(wanted, n_in, n_out)) {
            throw error("this place cannot hold a weight of type " + type + " and this shape");
        }
        impl.load(wanted, n_in, std::vector<uint8_t>(data.begin(), data.end()));
        width = n_in;
        height = n_out;
    }

    py::object multiply(const float_array & activations, int n_threads) {
        if (width == 0) {
            throw error("no weight has been loaded");
        }
        if (activations.ndim() != 3 || activations.shape(2) != width || activations.size() == 0) {
            throw error("activations do not have the shape [n_seqs, n_rows, " + std::to_string(width) + "]");
        }
        if (n_threads < 1 || n_threads > 512) {
            throw error("n_threads is " + std::to_string(n_threads) + ", expected 1 to 512");
        }
        const std::vector<float> values(activations.data(), activations.data() + activations.size());
        const py::ssize_t n_seqs = activations.shape(0);
        const py::ssize_t n_rows = activations.shape(1);
        std::optional<std::vector<float>> product;
        {
            const without_gil release;
            product = impl.multiply(values, n_rows, n_seqs, n_threads);
        }
        if (!product) {
            return py::none();
        }
        return to_numpy(std::move(*product), {n_seqs, n_rows, (py::ssize_t)height});
    }

private:
    static weight_place at(size_t place) {
        const std::vector<weight_place> places = list_weight_places();
        if (place >= places.size()) {
            throw error(
                "place is " + std::to_string(place) + ", expected one of the " + std::to_string(places.size()) +
                " of weight_places()");
        }
        return places[place];
    }

    static void check(const weight_type & type, int64_t n_in) {
        if (n_in < 1 || n_in % type.block != 0) {
            throw error(
                "n_in is " + std::to_string(n_in) + ", expected a multiple of " + std::to_string(type.block) + " for " +
                type.name);
        }
    }

    matmul_probe impl;
    int64_t width = 0;
    int64_t height = 0;
};

} // namespace

void register_inspect(py::module_ & m) {
    m.def(
        "build_info", [] { return as_dict(get_build_info()); },
        "How this extension was built: id, version, compiler, build_type, system, flags, llama_cpp, ggml, patches,\n"
        "options (ggml's switches) and features (by backend, what ggml was compiled with).");
    m.def(
        "devices", [] { return as_list(list_devices()); },
        "ggml's devices: name, description, type, backend, memory_free, memory_total (bytes), buffer_types.");
    m.def(
        "weight_places", [] { return as_list(list_weight_places()); },
        "Where llama.cpp may put a weight: device and buffer_type of each place.");
    m.def(
        "weight_types",
        [] {
            py::list list;
            for (const weight_type & type : list_weight_types()) {
                py::dict dict;
                dict["name"] = type.name;
                dict["block"] = type.block;
                dict["factor"] = type.factor;
                list.append(dict);
            }
            return list;
        },
        "Types that ggml can quantise to: name, block (elements) and factor (the type to which the CPU rounds\n"
        "activations before a product).");
    m.def(
        "quantize_rows",
        [](const std::string & type, const float_array & values) {
            const weight_type wanted = find_weight_type(type);
            if (values.ndim() != 2 || values.size() == 0 || values.shape(1) % wanted.block != 0) {
                throw error(
                    "values do not have the shape [n_out, n_in] with n_in a multiple of " +
                    std::to_string(wanted.block));
            }
            const auto rows = quantize_rows(
                wanted, std::vector<float>(values.data(), values.data() + values.size()), values.shape(1));
            return py::bytes((const char *)rows.data(), rows.size());
        },
        py::arg("type"), py::arg("values"), "Weights F32 [n_out, n_in] as ggml's bytes of a type.");
    m.def(
        "dequantize_rows",
        [](const std::string & type, const py::bytes & rows, int64_t n_in) {
            const weight_type wanted = find_weight_type(type);
            const std::string_view data = rows;
            if (n_in < 1 || n_in % wanted.block != 0 || data.size() % ggml_row_size(wanted.type, n_in) != 0) {
                throw error("these are not whole rows of type " + type);
            }
            const auto n_out = (py::ssize_t)(data.size() / ggml_row_size(wanted.type, n_in));
            return to_numpy(
                dequantize_rows(wanted, std::vector<uint8_t>(data.begin(), data.end()), n_in),
                {n_out, (py::ssize_t)n_in});
        },
        py::arg("type"), py::arg("rows"), py::arg("n_in"), "Inverse of quantize_rows: F32 [n_out, n_in].");
    py::class_<checked_probe>(m, "MatmulProbe", "Matrix products of a weight in a place: an index of weight_places().")
        .def(py::init<size_t>(), py::arg("place"))
        .def(
            "takes", &checked_probe::takes, py::arg("type"), py::arg("n_in"), py::arg("n_out"),
            "Whether llama.cpp's loader would put such a weight there.")
        .def(
            "load", &checked_probe::load, py::arg("type"), py::arg("n_in"), py::arg("rows"),
            "Put a weight there. rows: bytes from quantize_rows.")
        .def(
            "multiply", &checked_probe::multiply, py::arg("activations"), py::arg("n_threads"),
            "Activations F32 [n_seqs, n_rows, n_in] times the weight: F32 [n_seqs, n_rows, n_out]. None if the\n"
            "device leaves this product to another one. Raises Error if the device fails or writes outside its\n"
            "result.");
}

} // namespace metadeploy
