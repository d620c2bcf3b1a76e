// Chat templates: parsed and rendered within the bounds that csrc/runtime/chat_template.cpp sets, or refused with
// error.
#include "errors.h"
#include "runtime/chat_template.h"

#include "llama.h"

#include <cstdint>
#include <string>

using namespace metadeploy;

// Of hard-coded templates, which a text only names. It is in a file that needs all of llama.cpp.
int32_t llama_chat_apply_template(const char *, const llama_chat_message *, size_t, bool, char *, int32_t) {
    return -1;
}

// Values that hold one another are never freed: {% set ns.me = ns %}. How many there can be is bounded.
extern "C" const char * __asan_default_options() {
    return "detect_leaks=0";
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t * data, size_t size) {
    try {
        const chat_template tmpl(
            std::string(reinterpret_cast<const char *>(data), size), /*use_jinja =*/true,
            {{"bos_token", "\"<s>\""}, {"eos_token", "\"</s>\""}});
        (void)tmpl.apply({{"system", "Be brief."}, {"user", "h\xc3\xa9llo\n <b> 7 "}}, {{"x", "{\"a\": [1, null]}"}});
    } catch (const error &) {
    }
    return 0;
}
