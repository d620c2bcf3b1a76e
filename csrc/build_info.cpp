#include "build_info.h"

#include "build_id.h"
#include "build_values.h"

#include "ggml-backend.h"
#include "ggml.h"

#include <sstream>

namespace metadeploy {

namespace {

std::vector<std::string> split(const std::string & text) {
    std::vector<std::string> parts;
    std::istringstream in(text);
    for (std::string part; std::getline(in, part, ';');) {
        parts.push_back(part);
    }
    return parts;
}

std::map<std::string, bool> read_options() {
    std::map<std::string, bool> options;
    for (const std::string & part : split(METADEPLOY_OPTIONS)) {
        const size_t at = part.find('=');
        options[part.substr(0, at)] = part.substr(at + 1) == "ON";
    }
    return options;
}

std::map<std::string, std::string> features_of(ggml_backend_reg_t reg) {
    std::map<std::string, std::string> found;
    const auto get = (ggml_backend_get_features_t)ggml_backend_reg_get_proc_address(reg, "ggml_backend_get_features");
    if (get) {
        for (const ggml_backend_feature * feature = get(reg); feature->name; ++feature) {
            found[feature->name] = feature->value;
        }
    }
    return found;
}

template <typename Parts> // of strings
std::string join(const Parts & parts, const char * between) {
    std::string text;
    for (const std::string & part : parts) {
        text += (text.empty() ? "" : between) + part;
    }
    return text;
}

} // namespace

build_info get_build_info() {
    build_info info;
    info.id = METADEPLOY_BUILD_ID;
    info.version = METADEPLOY_VERSION;
    info.compiler = METADEPLOY_COMPILER;
    info.build_type = METADEPLOY_BUILD_TYPE;
    info.system = METADEPLOY_SYSTEM;
    info.flags = METADEPLOY_FLAGS;
    info.llama_cpp = METADEPLOY_LLAMA_CPP;
    info.ggml = ggml_version();
    info.patches = split(METADEPLOY_PATCHES);
    info.options = read_options();
    for (size_t i = 0; i < ggml_backend_reg_count(); ++i) {
        ggml_backend_reg_t reg = ggml_backend_reg_get(i);
        info.features[ggml_backend_reg_name(reg)] = features_of(reg);
    }
    return info;
}

std::string describe_build() {
    const build_info info = get_build_info();
    std::vector<std::string> options;
    for (const auto & [name, on] : info.options) {
        if (on) {
            options.push_back(name);
        }
    }
    std::ostringstream out;
    out << "metadeploy " << info.version << " (build " << info.id << ")\n"
        << "llama.cpp from " << info.llama_cpp << ", ggml " << info.ggml << ", patches: " << join(info.patches, ", ")
        << "\n"
        << "built by " << info.compiler << ", " << info.build_type << ", for " << info.system
        << (info.flags.empty() ? "" : ", flags: " + info.flags) << "\n"
        << "GGML options: " << join(options, " ") << "\n";
    for (const auto & [backend, features] : info.features) {
        out << backend << " compiled with:";
        for (const auto & [name, value] : features) {
            out << " " << name << (value == "1" ? "" : "=" + value);
        }
        out << "\n";
    }
    return out.str();
}

} // namespace metadeploy
