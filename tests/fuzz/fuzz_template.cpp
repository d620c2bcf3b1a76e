// Chat templates must be parsed and rendered within the limits of csrc/text/chat_template.cpp, or refused with
// error.
#include "errors.h"
#include "text/chat_template.h"

#include "llama.h"

#include <cstdint>
#include <string>

using namespace metadeploy;

// Replaces a function for hard-coded templates. The real one needs all of llama.cpp.
int32_t llama_chat_apply_template(const char *, const llama_chat_message *, size_t, bool, char *, int32_t) {
    return -1;
}

// Values that refer to each other are never freed: {% set ns.me = ns %}. Their number is limited.
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
