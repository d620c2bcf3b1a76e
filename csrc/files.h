// Writes files completely or not at all, recognizes the same file by any name, and computes digests of content. POSIX.
#pragma once

#include <string>

namespace metadeploy {

// an open file, closed by the destructor
class open_file {
public:
    open_file(const std::string & path, int flags, int mode = 0666); // -1 if it cannot be opened: see errno
    ~open_file();
    open_file(const open_file &) = delete;
    open_file & operator=(const open_file &) = delete;

    int descriptor() const { return fd; }
    explicit operator bool() const { return fd >= 0; }
    // Locks the file until it is closed, against others who lock it too. False if another one has the lock. True if the
    // file system does not support locks.
    bool lock() const;

private:
    int fd;
};

// A temporary file that replaces its target when it is complete. Otherwise it is deleted. If the process is killed at
// any moment, the target is either the old file or the new one. The next writer of the same target deletes the
// temporary files of killed writers. Twin of `replacing` in metadeploy/_files.py, which documents the names and locks.
class replacing_file {
public:
    explicit replacing_file(const std::string & target); // throws error
    ~replacing_file();
    replacing_file(const replacing_file &) = delete;
    replacing_file & operator=(const replacing_file &) = delete;

    const std::string & path() const { return temporary; } // an empty file, to be opened by this name
    // Flushes it to disk and replaces the target, with the mode and owner of the old file. Throws error.
    void commit();

private:
    std::string target;
    std::string temporary;
    open_file file;
};

// whether both paths lead to the same file, also through another spelling, a link or a hard link
bool is_same_file(const std::string & one, const std::string & other);

// Hex digest (XXH3, 128 bits) of a file's content. Throws error.
std::string content_digest(const std::string & path);
std::string text_digest(const std::string & text); // the 64-bit digest of a text

// Writes all of content. Throws error that begins with subject.
void write_all(int descriptor, const std::string & content, const std::string & subject);

} // namespace metadeploy
