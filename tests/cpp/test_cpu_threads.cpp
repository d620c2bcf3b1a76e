#include "check.h"
#include "cpu_threads.h"

#include <filesystem>
#include <fstream>
#include <string>

#if defined(__linux__)
#include <sched.h>
#endif

using namespace metadeploy;
namespace fs = std::filesystem;

namespace {

// a tree like that under /sys/fs/cgroup
class cgroup_tree {
public:
    cgroup_tree() : root(fs::temp_directory_path() / "metadeploy-cgroup-test") { fs::remove_all(root); }
    ~cgroup_tree() { fs::remove_all(root); }

    void write(const std::string & name, const std::string & text) const {
        fs::create_directories((root / name).parent_path());
        std::ofstream(root / name) << text << "\n";
    }

    int cpus(const std::string & membership) const { return cgroup_cpus(root.string(), membership); }

private:
    fs::path root;
};

} // namespace

TEST(a_quota_is_rounded_up_to_whole_cpus) {
    const cgroup_tree tree;
    tree.write("job/cpu.max", "150000 100000");
    CHECK_EQ(tree.cpus("0::/job\n"), 2);
    tree.write("job/cpu.max", "20000 100000");
    CHECK_EQ(tree.cpus("0::/job\n"), 1);
    tree.write("job/cpu.max", "400000 100000");
    CHECK_EQ(tree.cpus("0::/job\n"), 4);
    tree.write("job/cpu.max", "9000000000000000000 1"); // more than fits into an int
    CHECK_EQ(tree.cpus("0::/job\n"), 1000000);
}

TEST(without_a_quota_there_is_no_limit) {
    const cgroup_tree tree;
    CHECK_EQ(tree.cpus("0::/job\n"), 0);
    tree.write("job/cpu.max", "max 100000");
    CHECK_EQ(tree.cpus("0::/job\n"), 0);
    tree.write("cpu/job/cpu.cfs_quota_us", "-1");
    tree.write("cpu/job/cpu.cfs_period_us", "100000");
    CHECK_EQ(tree.cpus("4:cpu,cpuacct:/job\n0::/job\n"), 0);
    CHECK_EQ(tree.cpus(""), 0);
    CHECK_EQ(tree.cpus("no colons\n:\n::\n0::relative\n"), 0);
}

TEST(the_smallest_quota_of_a_cgroup_and_its_parents_counts) {
    const cgroup_tree tree;
    tree.write("cpu.max", "800000 100000");
    tree.write("slice/cpu.max", "200000 100000");
    tree.write("slice/job/cpu.max", "600000 100000");
    CHECK_EQ(tree.cpus("0::/slice/job\n"), 2);
    CHECK_EQ(tree.cpus("0::/slice\n"), 2);
    CHECK_EQ(tree.cpus("0::/\n"), 8);
}

TEST(a_container_that_sees_the_hosts_path_finds_its_own_quota_at_the_root) {
    const cgroup_tree tree;
    tree.write("cpu/cpu.cfs_quota_us", "300000");
    tree.write("cpu/cpu.cfs_period_us", "100000");
    CHECK_EQ(tree.cpus("5:cpu,cpuacct:/docker/0123abcd\n"), 3);
    CHECK_EQ(tree.cpus("5:cpuset:/docker/0123abcd\n"), 0); // not the controller of the quota
}

#if defined(__linux__)
TEST(the_affinity_mask_limits_the_threads) {
    cpu_set_t all;
    CHECK_EQ(sched_getaffinity(0, sizeof(all), &all), 0);
    CHECK(default_threads() >= 1 && default_threads() <= allowed_cpus() && allowed_cpus() <= CPU_COUNT(&all));
    cpu_set_t one;
    CPU_ZERO(&one);
    for (int i = 0; i < CPU_SETSIZE; ++i) {
        if (CPU_ISSET(i, &all)) {
            CPU_SET(i, &one);
            break;
        }
    }
    CHECK_EQ(sched_setaffinity(0, sizeof(one), &one), 0);
    const int n_allowed = allowed_cpus();
    const int n_default = default_threads();
    CHECK_EQ(sched_setaffinity(0, sizeof(all), &all), 0);
    CHECK_EQ(n_allowed, 1);
    CHECK_EQ(n_default, 1);
}
#endif
