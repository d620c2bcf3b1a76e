// A test harness in a page: TEST registers, CHECK* record failures and continue.
#pragma once

#include <cmath>
#include <exception>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <string>
#include <vector>

namespace metadeploy::testing {

struct test_case {
    const char * name;
    void (*run)();
};

inline std::vector<test_case> & all_tests() {
    static std::vector<test_case> tests;
    return tests;
}

inline int & failures() {
    static int n = 0;
    return n;
}

struct registration {
    registration(const char * name, void (*run)()) { all_tests().push_back({name, run}); }
};

inline void report(const char * file, int line, const std::string & what) {
    std::cerr << file << ":" << line << ": " << what << "\n";
    ++failures();
}

template <typename A, typename B>
void check_equal(const char * file, int line, const char * text, const A & actual, const B & expected) {
    if (!(actual == expected)) {
        std::cerr << "  actual:   " << actual << "\n  expected: " << expected << "\n";
        report(file, line, std::string(text) + " is another");
    }
}

// runs f, which has to throw an E whose message contains every one of texts
template <typename E>
void check_throws(
    const char * file, int line, const std::function<void()> & f, const std::vector<std::string> & texts) {
    try {
        f();
    } catch (const E & e) {
        const std::string message = e.what();
        for (const std::string & text : texts) {
            if (message.find(text) == std::string::npos) {
                report(file, line, "the error '" + message + "' does not contain '" + text + "'");
            }
        }
        return;
    } catch (const std::exception & e) {
        report(file, line, std::string("another kind of error: ") + e.what());
        return;
    }
    report(file, line, "no error" + (texts.empty() ? "" : ", expected one with '" + texts[0] + "'"));
}

// a folder that goes away at the end of the test
class temp_dir {
public:
    temp_dir() : path(std::filesystem::temp_directory_path() / ("metadeploy-test-" + std::to_string(next_number()))) {
        std::filesystem::remove_all(path);
        std::filesystem::create_directories(path);
    }
    ~temp_dir() {
        std::error_code ec;
        std::filesystem::remove_all(path, ec);
    }
    temp_dir(const temp_dir &) = delete;
    temp_dir & operator=(const temp_dir &) = delete;

    std::string write(const std::string & name, const std::string & content) const {
        const std::filesystem::path file = path / name;
        std::ofstream(file, std::ios::binary) << content;
        return file.u8string();
    }

    const std::filesystem::path path;

private:
    static size_t next_number() {
        static size_t n = std::hash<std::string>()(std::filesystem::current_path().string());
        return ++n;
    }
};

} // namespace metadeploy::testing

#define TEST(name)                                                                                                     \
    static void name();                                                                                                \
    static const metadeploy::testing::registration name##_registration(#name, name);                                   \
    static void name()

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            metadeploy::testing::report(__FILE__, __LINE__, "not so: " #condition);                                    \
        }                                                                                                              \
    } while (false)

#define CHECK_EQ(actual, expected) metadeploy::testing::check_equal(__FILE__, __LINE__, #actual, (actual), (expected))

#define CHECK_THROWS(type, expression, ...)                                                                            \
    metadeploy::testing::check_throws<type>(__FILE__, __LINE__, [&] { (void)(expression); }, {__VA_ARGS__})
