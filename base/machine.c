/* The machine: clock, memory, and the thread budget. */
#define _GNU_SOURCE
#include "base/base.h"

#include <omp.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

double at_now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The first number in a small system file; false when there is none ("max"). */
static bool read_number(const char *path, const char *format, long long *v)
{
    FILE *f = fopen(path, "re");
    char line[256];
    bool ok = false;
    if (!f)
        return false;
    while (!ok && fgets(line, sizeof line, f))
        ok = sscanf(line, format, v) == 1;
    fclose(f);
    return ok;
}

size_t at_rss_bytes(void)
{
    long long pages = 0;
    if (!read_number("/proc/self/statm", "%*d %lld", &pages))
        return 0;
    return (size_t)pages * (size_t)sysconf(_SC_PAGESIZE);
}

size_t at_peak_rss_bytes(void)
{
    long long kib = 0;
    struct rusage u;
    if (read_number("/proc/self/status", "VmHWM: %lld", &kib))
        return (size_t)kib << 10;
    getrusage(RUSAGE_SELF, &u);
    return (size_t)u.ru_maxrss << 10;
}

size_t at_memory_available(void)
{
    long long kib = 0, limit = 0, used = 0;
    size_t free_bytes = SIZE_MAX;
    if (read_number("/proc/meminfo", "MemAvailable: %lld", &kib))
        free_bytes = (size_t)kib << 10;
    if (read_number("/sys/fs/cgroup/memory.max", "%lld", &limit) &&
        read_number("/sys/fs/cgroup/memory.current", "%lld", &used) &&
        limit > used && (size_t)(limit - used) < free_bytes)
        free_bytes = (size_t)(limit - used);
    return free_bytes;
}

/* Logical processors per physical core of processor 0, at least 1.           */
static int smt_ways(void)
{
    char line[256] = "";
    FILE *f = fopen("/sys/devices/system/cpu/cpu0/topology/"
                    "thread_siblings_list", "re");
    int ways = 1, a, b;
    if (!f)
        return 1;
    if (fgets(line, sizeof line, f)) {
        if (sscanf(line, "%d-%d", &a, &b) == 2)
            ways = b - a + 1;
        else
            for (const char *s = strchr(line, ','); s; s = strchr(s + 1, ','))
                ways++;
    }
    fclose(f);
    return ways > 0 ? ways : 1;
}

int at_threads_default(void)
{
    const char *asked = getenv("OMP_NUM_THREADS");
    long long quota = 0, period = 100000;
    cpu_set_t set;
    int n = 1;
    if (asked && atoi(asked) > 0)
        return atoi(asked);
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        n = CPU_COUNT(&set);
    n = (n + smt_ways() - 1) / smt_ways();
    if (read_number("/sys/fs/cgroup/cpu.max", "%lld", &quota) && quota > 0) {
        (void)read_number("/sys/fs/cgroup/cpu.max", "%*d %lld", &period);
        if (period > 0 && quota / period < n)
            n = (int)(quota / period);
    }
    return n > 0 ? n : 1;
}

int at_threads_start(struct at_ctx *cx, int n)
{
    int most = 4 * omp_get_num_procs();
    if (n <= 0)
        n = at_threads_default();
    if (n > most)
        return at_fail(cx, AT_EINVAL, "threads is %d; this machine has %d "
                       "processors", n, omp_get_num_procs());
    omp_set_dynamic(0);
    omp_set_max_active_levels(1);
    omp_set_num_threads(n);
    cx->n_threads = n;
    return AT_OK;
}
