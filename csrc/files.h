// Files: written as a whole or not at all, never over one of the inputs, and told apart by their content. POSIX.
#pragma once

#include <string>

namespace metadeploy {

// an open file, closed at the end
class open_file {
public:
    open_file(const std::string & path, int flags, int mode = 0666); // -1 where it cannot be opened: see errno
    ~open_file();
    open_file(const open_file &) = delete;
    open_file & operator=(const open_file &) = delete;

    int descriptor() const { return fd; }
    explicit operator bool() const { return fd >= 0; }
    // Against everybody who does the same, until it is closed. False where another one has the lock; true where there
    // are no such locks.
    bool lock() const;

private:
    int fd;
};

// A temporary file that takes the place of its target when it is complete, and vanishes where it is not. Killed at any
// moment, the target is the old file or the new one; what a killed writer has left, the next one of the same target
// deletes. Twin of `replacing` in metadeploy/files.py, which says how temporary files are named and locked.
class replacing_file {
public:
    explicit replacing_file(const std::string & target); // throws error
    ~replacing_file();
    replacing_file(const replacing_file &) = delete;
    replacing_file & operator=(const replacing_file &) = delete;

    const std::string & path() const { return temporary; } // empty, to be written by its name
    // Puts it on disk and in place, with the mode and owner of the file that was there. Throws error.
    void commit();

private:
    std::string target;
    std::string temporary;
    open_file file;
};

// whether both name the same file: by any spelling, a link, or a hard link
bool is_same_file(const std::string & one, const std::string & other);

// Hex digest (XXH3, 128 bits) of a file's content. Throws error.
std::string content_digest(const std::string & path);
std::string text_digest(const std::string & text); // the same in 64 bits, of a text

// Writes all of it. Throws error that begins with subject.
void write_all(int descriptor, const std::string & content, const std::string & subject);

} // namespace metadeploy
