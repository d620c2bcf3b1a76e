#include "parse_json.h"

#include "errors.h"

#include <set>
#include <utility>
#include <vector>

namespace metadeploy {

namespace {

using json = nlohmann::ordered_json;

// Builds the value from the parser's events. The library's own builder does not check depth and repeated keys, and it
// compares each key with all earlier keys of an ordered object.
class builder : public nlohmann::json_sax<json> {
public:
    explicit builder(std::string & fault) : fault(fault) {}

    json root;

    bool null() override { return add(nullptr); }
    bool boolean(bool value) override { return add(value); }
    bool number_integer(number_integer_t value) override { return add(value); }
    bool number_unsigned(number_unsigned_t value) override { return add(value); }
    bool number_float(number_float_t value, const string_t & text) override {
        if (text.find_first_of(".eE") == string_t::npos) { // the library turns such an integer into a rounded float
            return refuse("the number " + shown(text) + " does not fit 64 bits");
        }
        return add(value);
    }
    bool string(string_t & value) override { return add(std::move(value)); }
    bool binary(binary_t & /*value*/) override { return refuse("binary data"); }

    bool start_object(std::size_t /*size*/) override { return open(json::object()); }
    bool key(string_t & name) override {
        if (!keys.back().insert(name).second) {
            return refuse("an object has the key \"" + shown(name) + "\" twice");
        }
        next_key = std::move(name);
        return true;
    }
    bool end_object() override { return close(); }
    bool start_array(std::size_t /*size*/) override { return open(json::array()); }
    bool end_array() override { return close(); }

    bool parse_error(std::size_t position, const std::string & /*token*/, const json::exception & problem) override {
        // 406: a number too large for a double
        return refuse(
            problem.id == 406 ? "a number is too large, expected one that is finite"
                              : "wrong at byte " + std::to_string(position));
    }

private:
    bool refuse(const std::string & why) {
        if (fault.empty()) {
            fault = why;
        }
        return false;
    }

    json * put(json && value) {
        if (path.empty()) {
            root = std::move(value);
            return &root;
        }
        if (path.back()->is_array()) {
            auto & items = path.back()->get_ref<json::array_t &>();
            items.push_back(std::move(value));
            return &items.back();
        }
        // The object is a vector of pairs. key() has checked that the key is new.
        auto & members = path.back()->get_ref<json::object_t &>();
        return &static_cast<json::object_t::Container &>(members)
                    .emplace_back(std::move(next_key), std::move(value))
                    .second;
    }

    bool add(json && value) {
        put(std::move(value));
        return true;
    }

    bool open(json && container) {
        if (path.size() == MAX_JSON_DEPTH) {
            return refuse("nested deeper than " + std::to_string(MAX_JSON_DEPTH) + " arrays and objects");
        }
        path.push_back(put(std::move(container)));
        keys.emplace_back();
        return true;
    }

    bool close() {
        path.pop_back();
        keys.pop_back();
        return true;
    }

    std::string & fault;
    std::vector<json *> path; // open containers; a container gets no items while one inside it is open
    std::vector<std::set<std::string>> keys;
    std::string next_key;
};

} // namespace

std::optional<nlohmann::ordered_json> parse_json(const std::string & text, std::string & fault) {
    fault.clear();
    if (const size_t nul = text.find('\0'); nul != std::string::npos) {
        fault = "wrong at byte " + std::to_string(nul + 1); // the library would take it as the end of the text
        return std::nullopt;
    }
    builder result(fault);
    if (!json::sax_parse(text, &result) || !fault.empty()) {
        return std::nullopt;
    }
    return std::move(result.root);
}

} // namespace metadeploy
