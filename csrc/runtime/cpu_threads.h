// How many threads compute: as many as the machine has cores for and the process may use, and one for small graphs.
#pragma once

#include "common.h"
#include "ggml-backend.h"

#include <string>

namespace metadeploy {

// CPUs that this process may use: its affinity mask, and the CPU quota of its cgroups (containers), rounded up.
// At least 1.
int allowed_cpus();

// Threads for a computation that nobody chose a number for: llama.cpp's count of cores that are useful for arithmetic
// (hyper-threads and efficiency cores are not), at most allowed_cpus(). At least 1.
int default_threads();

// What our programs begin with before a user's choices: default_threads(), and threads that go to sleep soon after a
// graph is done instead of spinning for a large part of a second.
void set_cpu_defaults(common_cpu_params & params);

// CPUs that the quota of a cgroup and its parents amounts to, rounded up; 0: unlimited, or not known.
// root: where cgroup file systems are mounted ("/sys/fs/cgroup"); membership: the text of /proc/self/cgroup.
int cgroup_cpus(const std::string & root, const std::string & membership);

// Lets a backend compute with one thread, for graphs of many small nodes. Threads wait for each other after every node:
// on a busy machine each wait can take a time slice of another process, and on a quiet one the second thread saves a
// fraction of a millisecond. Backends of other devices stay as they are.
void set_one_thread(ggml_backend_t backend);

} // namespace metadeploy
