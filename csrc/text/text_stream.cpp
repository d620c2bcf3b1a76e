#include "text/text_stream.h"

#include <algorithm>

namespace metadeploy {

namespace {

// length of s without an incomplete UTF-8 character at its end
size_t complete_utf8(const std::string & s) {
    for (size_t back = 1; back <= std::min<size_t>(4, s.size()); ++back) {
        const unsigned char c = (unsigned char)s[s.size() - back];
        if ((c & 0xC0) == 0x80) {
            continue;
        }
        const size_t length = c >= 0xF0 ? 4 : c >= 0xE0 ? 3 : c >= 0xC0 ? 2 : 1;
        return length > back ? s.size() - back : s.size();
    }
    return s.size();
}

// length of the longest end of s that a stop string begins with
size_t partial_stop(const std::string & s, const std::string & stop) {
    for (size_t n = std::min(s.size(), stop.size()); n > 0; --n) {
        if (s.compare(s.size() - n, n, stop, 0, n) == 0) {
            return n;
        }
    }
    return 0;
}

} // namespace

std::string text_stream::push(const std::string & piece) {
    held += piece;
    size_t first_stop = std::string::npos;
    size_t n_kept = 0;
    for (const std::string & s : stop) {
        if (s.empty()) {
            continue;
        }
        first_stop = std::min(first_stop, held.find(s));
        n_kept = std::max(n_kept, partial_stop(held, s));
    }
    if (first_stop != std::string::npos) {
        found_stop = true;
        std::string shown = take(first_stop);
        held.clear();
        return shown;
    }
    return take(std::min(held.size() - n_kept, complete_utf8(held)));
}

std::string text_stream::flush() {
    return take(held.size());
}

std::string text_stream::take(size_t n) {
    const std::string shown = held.substr(0, n);
    held.erase(0, n);
    whole += shown;
    return shown;
}

} // namespace metadeploy
