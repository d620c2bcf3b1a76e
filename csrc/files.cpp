#include "files.h"

#include "errors.h"
#include "hash/hash.h"
#include "hash/xxhash/xxhash.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <memory>
#include <random>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <vector>

namespace fs = std::filesystem;

namespace metadeploy {

namespace {

constexpr size_t LONGEST_NAME = 200; // all rules for names are the same as in metadeploy/_files.py
constexpr size_t N_DIGITS = 12;
constexpr int MOST_LINKS = 40;
constexpr char HEX[] = "0123456789abcdef";

[[noreturn]] void fail(const std::string & path, const char * what) {
    throw error("file '" + path + "' " + what + ": " + std::strerror(errno));
}

std::string to_hex(const unsigned char * bytes, size_t n) {
    std::string hex;
    for (size_t i = 0; i < n; ++i) {
        hex += {HEX[bytes[i] >> 4], HEX[bytes[i] & 15]};
    }
    return hex;
}

// follows links, even to a file that does not exist yet
std::string resolved(const std::string & path) {
    fs::path found = fs::u8path(path);
    std::error_code ec;
    for (int n = 0; n < MOST_LINKS && fs::is_symlink(found, ec); ++n) {
        found = found.parent_path() / fs::read_symlink(found, ec);
    }
    return found.u8string();
}

fs::path folder_of(const std::string & path) {
    const fs::path folder = fs::u8path(path).parent_path();
    return folder.empty() ? fs::path(".") : folder;
}

std::string temporary_stem(const std::string & target) {
    std::string name = fs::u8path(target).filename().u8string();
    if (name.size() > LONGEST_NAME) {
        name = hash_sha256_hex(name.data(), name.size());
    }
    return "." + name + ".";
}

bool is_leftover(const std::string & name, const std::string & stem) {
    const std::string suffix = ".tmp";
    return name.size() == stem.size() + N_DIGITS + suffix.size() && name.compare(0, stem.size(), stem) == 0 &&
           name.compare(name.size() - suffix.size(), suffix.size(), suffix) == 0 &&
           name.find_first_not_of(HEX, stem.size()) == stem.size() + N_DIGITS;
}

// Deletes the files that killed writers of this target have left. Files that are being written are locked and stay.
void delete_leftovers(const std::string & target) {
    const std::string stem = temporary_stem(target);
    std::error_code ec;
    std::vector<fs::path> found;
    for (const fs::directory_entry & entry : fs::directory_iterator(folder_of(target), ec)) {
        if (is_leftover(entry.path().filename().u8string(), stem)) {
            found.push_back(entry.path());
        }
    }
    for (const fs::path & path : found) {
        const open_file file(path.u8string(), O_RDONLY | O_NOFOLLOW);
        if (file && flock(file.descriptor(), LOCK_EX | LOCK_NB) == 0) {
            fs::remove_all(path, ec); // those of Python are folders
        }
    }
}

// returns a name for the next temporary file
std::string next_temporary(const std::string & target) {
    delete_leftovers(target);
    std::random_device random;
    std::string name = temporary_stem(target);
    for (size_t i = 0; i < N_DIGITS; ++i) {
        name += HEX[random() % 16];
    }
    return (folder_of(target) / fs::u8path(name + ".tmp")).u8string();
}

void sync_folder(const fs::path & folder) {
    const open_file file(folder.u8string(), O_RDONLY);
    if (file && fsync(file.descriptor()) != 0 && errno == EIO) {
        fail(folder.u8string(), "cannot be flushed to disk"); // other errors: not supported by the file system
    }
}

} // namespace

open_file::open_file(const std::string & path, int flags, int mode) : fd(open(path.c_str(), flags | O_CLOEXEC, mode)) {}

open_file::~open_file() {
    if (fd >= 0) {
        close(fd);
    }
}

bool open_file::lock() const {
    return flock(fd, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK;
}

replacing_file::replacing_file(const std::string & path)
    : target(resolved(path)), temporary(next_temporary(target)), file(temporary, O_CREAT | O_EXCL | O_RDWR) {
    if (!file) {
        fail(path, "cannot be written");
    }
    flock(file.descriptor(), LOCK_EX);
    if (access(temporary.c_str(), F_OK) != 0) { // deleted by another writer before it was locked
        throw error("file '" + path + "' cannot be written: another process is writing it (hint: try again)");
    }
}

replacing_file::~replacing_file() {
    if (!temporary.empty()) {
        unlink(temporary.c_str());
    }
}

void replacing_file::commit() {
    struct stat before;
    if (stat(target.c_str(), &before) == 0) {
        // only the superuser may give files away
        if (fchown(file.descriptor(), before.st_uid, before.st_gid) != 0 && errno != EPERM) {
            fail(target, "cannot be written");
        }
        fchmod(file.descriptor(), before.st_mode & 07777);
    }
    if (fsync(file.descriptor()) != 0 || std::rename(temporary.c_str(), target.c_str()) != 0) {
        fail(target, "cannot be written");
    }
    temporary.clear();
    sync_folder(folder_of(target));
}

bool is_same_file(const std::string & one, const std::string & other) {
    std::error_code ec;
    return fs::equivalent(fs::u8path(one), fs::u8path(other), ec) && !ec;
}

std::string content_digest(const std::string & path) {
    const open_file file(path, O_RDONLY);
    if (!file) {
        fail(path, "cannot be opened");
    }
    const std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> state(XXH3_createState(), XXH3_freeState);
    XXH3_128bits_reset(state.get());
    std::vector<char> chunk(1 << 20);
    for (;;) {
        const ssize_t n = read(file.descriptor(), chunk.data(), chunk.size());
        if (n < 0) {
            fail(path, "cannot be read");
        }
        if (n == 0) {
            break;
        }
        XXH3_128bits_update(state.get(), chunk.data(), (size_t)n);
    }
    XXH128_canonical_t digest;
    XXH128_canonicalFromHash(&digest, XXH3_128bits_digest(state.get()));
    return to_hex(digest.digest, sizeof(digest.digest));
}

std::string text_digest(const std::string & text) {
    XXH64_canonical_t digest;
    XXH64_canonicalFromHash(&digest, XXH3_64bits(text.data(), text.size()));
    return to_hex(digest.digest, sizeof(digest.digest));
}

void write_all(int descriptor, const std::string & content, const std::string & subject) {
    for (size_t done = 0; done < content.size();) {
        const ssize_t n = write(descriptor, content.data() + done, content.size() - done);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            throw error(subject + " cannot be written: " + std::strerror(errno));
        }
        done += (size_t)n;
    }
}

} // namespace metadeploy
