#include "check.h"
#include "errors.h"
#include "files.h"

#include <fcntl.h>
#include <set>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

using namespace metadeploy;
using namespace metadeploy::testing;

namespace fs = std::filesystem;

namespace {

std::string content(const fs::path & path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

std::string names(const fs::path & folder) {
    std::set<std::string> found;
    for (const fs::directory_entry & entry : fs::directory_iterator(folder)) {
        found.insert(entry.path().filename().u8string());
    }
    std::string all;
    for (const std::string & name : found) {
        all += name + "|";
    }
    return all;
}

void replace(const std::string & target, const std::string & text) {
    replacing_file out(target);
    std::ofstream(out.path(), std::ios::binary) << text;
    out.commit();
}

} // namespace

TEST(a_file_is_replaced_as_a_whole_or_not_at_all) {
    const temp_dir dir;
    const std::string path = dir.write("a", "old");
    {
        replacing_file out(path);
        std::ofstream(out.path()) << "half";
        CHECK_EQ(content(path), "old");
    }
    CHECK_EQ(content(path), "old");
    CHECK_EQ(names(dir.path), "a|");
    replace(path, "new");
    CHECK_EQ(content(path), "new");
    replace((dir.path / "b").u8string(), "made");
    CHECK_EQ(names(dir.path), "a|b|");
    CHECK_THROWS(error, replacing_file((dir.path / "absent" / "a").u8string()), "absent/a' cannot be written: No such");
}

TEST(links_stay_and_modes_are_handed_down) {
    const temp_dir dir;
    const std::string path = dir.write("a", "old");
    chmod(path.c_str(), 0600);
    fs::create_symlink("a", dir.path / "link");
    fs::create_symlink("not there yet", dir.path / "dangling");
    replace((dir.path / "link").u8string(), "new");
    replace((dir.path / "dangling").u8string(), "made");
    CHECK(fs::is_symlink(dir.path / "link"));
    CHECK(fs::is_symlink(dir.path / "dangling"));
    CHECK_EQ(content(path), "new");
    CHECK_EQ(content(dir.path / "not there yet"), "made");
    struct stat found;
    stat(path.c_str(), &found);
    CHECK_EQ(found.st_mode & 07777, 0600u);
}

TEST(what_a_killed_writer_has_left_is_deleted) {
    const temp_dir dir;
    const std::string target = (dir.path / "a").u8string();
    dir.write(".a.0123456789ab.tmp", "half");
    fs::create_directory(dir.path / ".a.ba9876543210.tmp"); // a temporary folder of Python's
    std::ofstream(dir.path / ".a.ba9876543210.tmp" / "new") << "half";
    const open_file busy(dir.write(".a.000000000000.tmp", "being written"), O_RDONLY);
    flock(busy.descriptor(), LOCK_EX);
    for (const char * stranger : {".a.tmp", ".a.0123456789ag.tmp", ".b.0123456789ab.tmp", "a.0123456789ab.tmp"}) {
        dir.write(stranger, "");
    }
    replace(target, "new");
    CHECK_EQ(
        names(dir.path), ".a.000000000000.tmp|.a.0123456789ag.tmp|.a.tmp|.b.0123456789ab.tmp|a|a.0123456789ab.tmp|");
}

TEST(names_as_long_as_names_can_be) {
    const temp_dir dir;
    const std::string name(255, 'x');
    replace((dir.path / name).u8string(), "new");
    CHECK_EQ(names(dir.path), name + "|");
}

TEST(a_file_is_recognised_by_any_name) {
    const temp_dir dir;
    const std::string path = dir.write("a", "x");
    fs::create_symlink(path, dir.path / "link");
    fs::create_hard_link(path, dir.path / "hard");
    dir.write("other", "x");
    for (const char * name : {"a", "link", "hard", "./a"}) {
        CHECK(is_same_file(path, (dir.path / name).u8string()));
    }
    CHECK(!is_same_file(path, (dir.path / "other").u8string()));
    CHECK(!is_same_file(path, (dir.path / "absent").u8string()));
}

TEST(digests_are_those_of_xxhash) {
    const temp_dir dir;
    // from the reference implementation: xxhsum -H2, xxhsum -H3
    CHECK_EQ(content_digest(dir.write("a", "")), "99aa06d3014798d86001c324468d497f");
    CHECK_EQ(text_digest(""), "2d06800538d394c2");
    const std::string large(3 << 20, 'x'); // more than is read at once
    CHECK_EQ(content_digest(dir.write("b", large)), content_digest(dir.write("c", large)));
    CHECK(content_digest(dir.write("d", large + "y")) != content_digest(dir.write("e", large + "z")));
    CHECK_THROWS(error, content_digest((dir.path / "absent").u8string()), "absent' cannot be opened: No such file");
}

TEST(what_cannot_be_written_is_an_error) {
    const open_file full("/dev/full", O_WRONLY);
    CHECK_THROWS(error, write_all(full.descriptor(), "x", "file 'f'"), "file 'f' cannot be written: No space left");
}
