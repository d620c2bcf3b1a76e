#include "cli/prompts.h"

namespace metadeploy {

std::string dump_json(const nlohmann::ordered_json & value, int indent) {
    return value.dump(indent, ' ', /*ensure_ascii =*/false, nlohmann::ordered_json::error_handler_t::replace);
}

} // namespace metadeploy
