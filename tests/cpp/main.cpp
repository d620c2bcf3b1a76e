// Runs the tests of one executable; exit code 1 where one fails.
#include "check.h"
#include "log.h"

int main() {
    using namespace metadeploy::testing;
    metadeploy::set_log_sink(nullptr, GGML_LOG_LEVEL_ERROR); // as the program and the extension do
    int n_failed = 0;
    for (const test_case & test : all_tests()) {
        const int before = failures();
        try {
            test.run();
        } catch (const std::exception & e) {
            report(test.name, 0, std::string("unexpected error: ") + e.what());
        }
        const bool ok = failures() == before;
        n_failed += !ok;
        std::cerr << (ok ? "ok      " : "FAILED  ") << test.name << "\n";
    }
    std::cerr << all_tests().size() - n_failed << " of " << all_tests().size() << " passed\n";
    return all_tests().empty() || n_failed > 0 ? 1 : 0;
}
