#include "cli/text_file.h"

#include "errors.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>

namespace metadeploy {

namespace {

constexpr size_t NONE = std::string::npos;

std::string line_of(const std::string & bytes, size_t at) {
    return "line " + std::to_string(1 + std::count(bytes.begin(), bytes.begin() + (std::ptrdiff_t)at, '\n'));
}

bool begins(const std::string & bytes, const std::string & mark) {
    return bytes.compare(0, mark.size(), mark) == 0;
}

// length of the character that begins there, 0 if none does
size_t character(const std::string & bytes, size_t at) {
    const auto byte = [&](size_t i) { return i < bytes.size() ? (unsigned char)bytes[i] : 0u; };
    const unsigned first = byte(at);
    const size_t n = first < 0x80 ? 1 : first < 0xC2 ? 0 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : first < 0xF5 ? 4 : 0;
    for (size_t i = 1; i < n; ++i) {
        if ((byte(at + i) & 0xC0) != 0x80) {
            return 0;
        }
    }
    const unsigned second = byte(at + 1);
    const bool overlong = (first == 0xE0 && second < 0xA0) || (first == 0xF0 && second < 0x90);
    const bool outside =
        (first == 0xED && second > 0x9F) || (first == 0xF4 && second > 0x8F); // surrogates; 0x110000 and above
    return overlong || outside ? 0 : n;
}

size_t first_that_is_no_utf8(const std::string & bytes) {
    size_t at = 0;
    while (at < bytes.size()) {
        const size_t n = character(bytes, at);
        if (n == 0) {
            return at;
        }
        at += n;
    }
    return NONE;
}

// UTF-16 of mostly Latin letters has a NUL in every pair of bytes
bool looks_like_utf16(const std::string & bytes) {
    return bytes.size() >= 2 && 4 * (size_t)std::count(bytes.begin(), bytes.end(), '\0') > bytes.size();
}

} // namespace

std::string read_bytes(const std::string & path, const std::string & subject) {
    const std::filesystem::path file = std::filesystem::u8path(path);
    std::error_code ec;
    if (std::filesystem::is_directory(file, ec)) {
        throw error(subject + " is a directory, expected a file");
    }
    std::ifstream stream(file, std::ios::binary);
    if (!stream) {
        throw error(subject + " cannot be opened");
    }
    return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

std::string check_text(std::string bytes, const std::string & subject, nul_bytes nul) {
    const char * utf8 = ", expected UTF-8 (hint: iconv -f UTF-16 -t UTF-8; in PowerShell: Out-File -Encoding utf8)";
    if (begins(bytes, "\xFF\xFE") || begins(bytes, "\xFE\xFF") || begins(bytes, std::string("\0\0\xFE\xFF", 4))) {
        throw error(subject + " is UTF-16 or UTF-32 by its first bytes" + utf8);
    }
    if (begins(bytes, "\xEF\xBB\xBF")) {
        bytes.erase(0, 3); // editors on Windows mark UTF-8 this way
    }
    if (nul == nul_bytes::refuse) {
        if (const size_t at = bytes.find('\0'); at != NONE) {
            if (looks_like_utf16(bytes)) {
                throw error(subject + " has a NUL in every other byte, as UTF-16 has" + utf8);
            }
            throw error(subject + ", " + line_of(bytes, at) + " holds a NUL byte, expected text");
        }
    }
    if (const size_t at = first_that_is_no_utf8(bytes); at != NONE) {
        char byte[8];
        std::snprintf(byte, sizeof(byte), "0x%02X", (unsigned char)bytes[at]);
        throw error(
            subject + ", " + line_of(bytes, at) + " has the byte " + byte +
            ", which is not UTF-8, expected UTF-8 (hint: iconv -f LATIN1 -t UTF-8)");
    }
    return bytes;
}

} // namespace metadeploy
