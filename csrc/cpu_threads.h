// Numbers of threads: the default for the base model, and one for small graphs.
#pragma once

#include "common.h"
#include "ggml-backend.h"

#include <string>

namespace metadeploy {

// CPUs that this process may use: its affinity mask, and the CPU quota of its cgroups (containers), rounded up.
// At least 1.
int allowed_cpus();

// The default number of threads: llama.cpp's count of cores that are useful for arithmetic (hyper-threads and
// efficiency cores are not), at most allowed_cpus() and ggml's limit. At least 1.
int default_threads();

// Sets the defaults that a user's options then override: default_threads(), and workers that go to sleep a few
// milliseconds after a graph instead of spinning for a tenth of a second.
void set_cpu_defaults(common_cpu_params & params);

// Turns polling off if there are more threads than CPUs: a thread that spins would keep the one that it waits for off
// its CPU. Call it when the number of threads is known.
void limit_polling(common_cpu_params & params);

// The smallest CPU quota of a cgroup and its parents in whole CPUs, rounded up; 0: unlimited or unknown.
// root: where cgroup file systems are mounted ("/sys/fs/cgroup"); membership: the text of /proc/self/cgroup.
int cgroup_cpus(const std::string & root, const std::string & membership);

// Lets a backend compute with one thread, for graphs of many small nodes. Threads wait for each other after every node:
// on a busy machine each wait can take a time slice of another process, and on a quiet one the second thread saves a
// fraction of a millisecond. Backends of other devices stay as they are.
void set_one_thread(ggml_backend_t backend);

} // namespace metadeploy
