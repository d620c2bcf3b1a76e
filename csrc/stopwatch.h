// The time that a scope takes.
#pragma once

#include <chrono>

namespace metadeploy {

class stopwatch {
public:
    // Adds milliseconds to ms, which must outlive it, when it ends.
    explicit stopwatch(double & ms) : ms(ms) {}
    ~stopwatch() { ms += std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count(); }
    stopwatch(const stopwatch &) = delete;
    stopwatch & operator=(const stopwatch &) = delete;

private:
    double & ms;
    const std::chrono::steady_clock::time_point start = std::chrono::steady_clock::now();
};

} // namespace metadeploy
