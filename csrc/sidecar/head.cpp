#include "sidecar/head.h"

#include "errors.h"
#include "sidecar/rules.h"

#include "gguf.h"

#include <algorithm>
#include <cstdio>
#include <string>

namespace metadeploy {

namespace {

// thrown if the file ends early, or if ggml's reader will refuse it anyway and say why
struct unreadable {};

class head_walk {
public:
    head_walk(std::FILE * file, const std::string & subject) : subject(subject), file(file) {}

    void run() {
        if (text(4) != GGUF_MAGIC) {
            throw unreadable();
        }
        if (const auto version = number<uint32_t>(); version < 2 || version > GGUF_VERSION) {
            throw unreadable();
        }
        const auto n_tensors = count("tensors", MAX_TENSORS);
        const auto n_keys = count("metadata keys", MAX_KEYS);
        for (uint64_t i = 0; i < n_keys; ++i) {
            const std::string key = name("metadata key " + std::to_string(i), MAX_KEY_BYTES);
            value("key '" + shown(key) + "'", number<uint32_t>());
        }
        for (uint64_t i = 0; i < n_tensors; ++i) {
            const std::string what = "tensor " + std::to_string(i);
            const std::string title = name(what, GGML_MAX_NAME - 1);
            const auto n_dims = number<uint32_t>();
            if (n_dims < 1 || n_dims > GGML_MAX_DIMS) {
                refuse(what + " has " + std::to_string(n_dims) + " dimensions, expected 1 to 4");
            }
            shape("tensor '" + shown(title) + "'", n_dims);
            skip(sizeof(uint32_t) + sizeof(uint64_t)); // type, offset
        }
    }

private:
    [[noreturn]] void refuse(const std::string & fault) const { throw sidecar_error(subject + ": " + fault); }

    void advance(uint64_t n) {
        if (n > (uint64_t)MAX_HEAD_BYTES - pos) {
            refuse(
                "has more than " + std::to_string(MAX_HEAD_BYTES) +
                " bytes of keys and tensor records, expected fewer");
        }
        pos += n;
    }

    void skip(uint64_t n) {
        char dropped[4096]; // a seek could go past the end of the file
        for (uint64_t part; n > 0; n -= part) {
            part = std::min<uint64_t>(n, sizeof(dropped));
            read(dropped, part);
        }
    }

    void read(char * into, uint64_t n) {
        advance(n);
        if (std::fread(into, 1, n, file) != n) {
            throw unreadable();
        }
    }

    template <typename T>
    T number() {
        T found;
        read(reinterpret_cast<char *>(&found), sizeof(found));
        return found;
    }

    std::string text(uint64_t n) {
        std::string found(n, '\0');
        read(found.data(), n);
        return found;
    }

    uint64_t count(const std::string & what, int64_t most) {
        const auto n = number<uint64_t>();
        if (n > (uint64_t)most) {
            refuse("has " + std::to_string(n) + " " + what + ", expected at most " + std::to_string(most));
        }
        return n;
    }

    // ggml ends texts at a zero byte, other readers do not
    std::string terminated(const std::string & what, int64_t most) {
        std::string found = text(count("bytes for " + what, most));
        if (found.find('\0') != std::string::npos) {
            refuse("has a zero byte in " + what);
        }
        return found;
    }

    std::string name(const std::string & what, int64_t most) { return terminated("the name of " + what, most); }

    // An unpatched ggml accepts some shapes for which ggml_new_tensor ends the process: INT64_MAX elements, or a
    // product that overflows if a dimension of 0 is left out
    void shape(const std::string & what, uint32_t n_dims) {
        int64_t n_elements = 1;
        for (uint32_t i = 0; i < n_dims; ++i) {
            const auto width = number<int64_t>();
            if (width < 0) {
                throw unreadable();
            }
            if (width == 0) {
                refuse(what + " is empty");
            }
            if (n_elements >= INT64_MAX / width) {
                refuse(what + " has more elements than 64 bits can count, their product overflows");
            }
            n_elements *= width;
        }
    }

    // type is a plain number, because a file may have one that is not in the enumeration
    void value(const std::string & what, uint32_t type) {
        if (type == GGUF_TYPE_STRING) {
            terminated("the text of " + what, MAX_TEXT_BYTES);
        } else if (type == GGUF_TYPE_ARRAY) {
            const auto inner = number<uint32_t>();
            const uint64_t n = count("entries in " + what, MAX_ARRAY);
            if (inner == GGUF_TYPE_STRING) {
                for (uint64_t i = 0; i < n; ++i) {
                    skip(count("bytes in a text of " + what, MAX_TEXT_BYTES));
                }
            } else {
                for (uint64_t i = 0; i < n; ++i) {
                    scalar(what, inner);
                }
            }
        } else {
            scalar(what, type);
        }
    }

    void scalar(const std::string & what, uint32_t type) {
        if (type == GGUF_TYPE_BOOL) {
            if (const auto found = number<uint8_t>(); found > 1) {
                refuse("has " + std::to_string(found) + " in " + what + ", expected a bool (0 or 1)");
            }
            return;
        }
        switch (type) {
        case GGUF_TYPE_UINT8:
        case GGUF_TYPE_INT8:
            return skip(1);
        case GGUF_TYPE_UINT16:
        case GGUF_TYPE_INT16:
            return skip(2);
        case GGUF_TYPE_UINT32:
        case GGUF_TYPE_INT32:
        case GGUF_TYPE_FLOAT32:
            return skip(4);
        case GGUF_TYPE_UINT64:
        case GGUF_TYPE_INT64:
        case GGUF_TYPE_FLOAT64:
            return skip(8);
        default:
            throw unreadable();
        }
    }

    const std::string & subject;
    std::FILE * file;
    uint64_t pos = 0;
};

} // namespace

void check_head(std::FILE * file, const std::string & subject) {
    std::rewind(file);
    try {
        head_walk(file, subject).run();
    } catch (const unreadable &) { // ggml's reader gives the better message
    }
    std::rewind(file);
}

} // namespace metadeploy
