#include "cpu_threads.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>
#include <sstream>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

namespace metadeploy {

namespace {

// In units of 131,072 rounds of waiting, some milliseconds: longer than from one token's graph to the next.
constexpr uint32_t POLL_LEVEL = 1;

std::string read_text(const std::string & path) {
    std::ifstream file(path);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// CPUs of "QUOTA PERIOD" (microseconds); 0: "max PERIOD", -1 (version 1's "unlimited"), or no such text
int quota_cpus(const std::string & text) {
    std::istringstream numbers(text);
    double quota = 0.0;
    double period = 0.0;
    if (!(numbers >> quota >> period) || quota <= 0.0 || period <= 0.0) {
        return 0;
    }
    return (int)std::clamp(std::ceil(quota / period), 1.0, 1e6);
}

int smaller_limit(int a, int b) {
    return a == 0 ? b : b == 0 ? a : std::min(a, b);
}

// The smallest quota of a cgroup and its parents. Inside a container the path may belong to the host, which is not
// mounted there: the walk then ends at the container's own root.
template <typename Read>
int smallest_quota(std::string path, Read && read) {
    int limit = 0;
    for (;;) {
        limit = smaller_limit(limit, quota_cpus(read(path)));
        if (path.empty()) {
            return limit;
        }
        path.erase(path.find_last_of('/'));
    }
}

int affinity_cpus() {
#if defined(__linux__)
    // the mask of a machine with more than CPU_SETSIZE CPUs does not fit into a cpu_set_t
    for (int n_cpus = CPU_SETSIZE; n_cpus <= (1 << 20); n_cpus *= 2) {
        cpu_set_t * mask = CPU_ALLOC(n_cpus);
        const size_t size = CPU_ALLOC_SIZE(n_cpus);
        const bool known = mask && sched_getaffinity(0, size, mask) == 0;
        const int count = known ? CPU_COUNT_S(size, mask) : 0;
        CPU_FREE(mask);
        if (known) {
            return count;
        }
    }
#endif
    return (int)std::thread::hardware_concurrency();
}

} // namespace

int cgroup_cpus(const std::string & root, const std::string & membership) {
    int limit = 0;
    std::istringstream lines(membership);
    for (std::string line; std::getline(lines, line);) { // "ID:CONTROLLERS:PATH", no controllers in version 2
        const size_t first = line.find(':');
        const size_t second = line.find(':', first + 1);
        if (first == std::string::npos || second == std::string::npos) {
            continue;
        }
        const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
        std::string path = line.substr(second + 1);
        if (path == "/") {
            path.clear();
        }
        if (!path.empty() && path.front() != '/') {
            continue;
        }
        if (controllers == ",,") {
            const auto read = [&](const std::string & at) { return read_text(root + at + "/cpu.max"); };
            limit = smaller_limit(limit, smallest_quota(path, read));
        } else if (controllers.find(",cpu,") != std::string::npos) {
            const auto read = [&](const std::string & at) {
                const std::string folder = root + "/cpu" + at;
                return read_text(folder + "/cpu.cfs_quota_us") + " " + read_text(folder + "/cpu.cfs_period_us");
            };
            limit = smaller_limit(limit, smallest_quota(path, read));
        }
    }
    return limit;
}

int allowed_cpus() {
    const int n_affinity = std::max(1, affinity_cpus());
    return smaller_limit(n_affinity, cgroup_cpus("/sys/fs/cgroup", read_text("/proc/self/cgroup")));
}

int default_threads() {
    return std::clamp((int)common_cpu_get_num_math(), 1, std::min(allowed_cpus(), GGML_MAX_N_THREADS));
}

void set_cpu_defaults(common_cpu_params & params) {
    params.n_threads = default_threads();
    params.poll = POLL_LEVEL;
}

void limit_polling(common_cpu_params & params) {
    if (params.n_threads > allowed_cpus()) {
        params.poll = 0;
    }
}

void set_one_thread(ggml_backend_t backend) {
    ggml_backend_dev_t dev = ggml_backend_get_device(backend);
    ggml_backend_reg_t reg = dev ? ggml_backend_dev_backend_reg(dev) : nullptr;
    if (!reg) {
        return;
    }
    const auto set_n_threads =
        (ggml_backend_set_n_threads_t)ggml_backend_reg_get_proc_address(reg, "ggml_backend_set_n_threads");
    if (set_n_threads) {
        set_n_threads(backend, 1);
    }
}

} // namespace metadeploy
