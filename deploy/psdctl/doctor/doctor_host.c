/* doctor_host.c - this program and this machine. */
#include <inttypes.h>
#include <jansson.h>
#include <sched.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/timex.h>
#include <time.h>
#include <unistd.h>
#include <uv.h>
#include <zlib.h>

#include "common/optim/isa.h"
#include "common/optim/optimizer.h"
#include "common/net/transport.h"
#include "deploy/psdctl/doctor/doctor.h"
#include "deploy/psdctl/inspect/http.h"

#define TEXT_OF(x) #x
#define TEXT(x)    TEXT_OF(x)
#define UV_BUILT   TEXT(UV_VERSION_MAJOR) "." TEXT(UV_VERSION_MINOR) "." TEXT(UV_VERSION_PATCH)

/* The value on the first line of a file that begins with `key`; "" when there is none. */
static void read_line(const char *path, const char *key, char *out, size_t capacity)
{
    char line[512];
    FILE *file = fopen(path, "r");
    *out = '\0';
    while (file && !*out && fgets(line, sizeof line, file)) {
        if (strncmp(line, key, strlen(key)) != 0)
            continue;
        const char *text = line + strlen(key);
        text += strspn(text, " \t:");
        snprintf(out, capacity, "%.*s", (int)strcspn(text, "\n"), text);
    }
    if (file)
        fclose(file);
}

void psd_check_program(psd_findings_t *findings, const psd_options_t *options, bool has_job)
{
    (void)options, (void)has_job;
#if defined(__clang__)
    static const char compiler[] = "clang " __VERSION__;
#else
    static const char compiler[] = "gcc " __VERSION__;
#endif
    psd_finding(findings, PSD_VERDICT_OK, "psd", "", "%s, built by %s", PSD_VERSION, compiler);
#ifdef PSD_FAILPOINTS
    psd_finding(findings, PSD_VERDICT_WARN, "build", "run a release build: cmake --preset release",
                "it is a test build with failpoints, which can be told to crash");
#endif
}

void psd_check_processor(psd_findings_t *findings, const psd_options_t *options, bool has_job)
{
    (void)options, (void)has_job;
    char model[128], all[128] = "";
    cpu_set_t set;
    const char *isa;
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    int mine = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : (int)cores;
    read_line("/proc/cpuinfo", "model name", model, sizeof model);
    for (size_t i = 0; (isa = psd_isa_at(i)); i++)
        snprintf(all + strlen(all), sizeof all - strlen(all), "%s%s", i ? ", " : "", isa);
    psd_finding(findings, PSD_VERDICT_OK, "processor", "", "%s: %ld cores, %d of them for psd; kernels: %s (of %s)",
                *model ? model : "unknown", cores, mine, psd_isa_name(), all);
    if (mine < cores)
        psd_finding(findings, PSD_VERDICT_WARN, "cores", "set threads to that number, or allow psd the other cores",
                    "psd counts on %ld cores, but may use %d", cores, mine);
}

void psd_check_libraries(psd_findings_t *findings, const psd_options_t *options, bool has_job)
{
    (void)options, (void)has_job;
    char zmq_built[24], zmq_runs[24];
    const char *curl_built, *curl_runs;
    psd_net_versions(zmq_built, zmq_runs);
    psd_http_versions(&curl_built, &curl_runs);
    const struct {
        const char *name, *built, *runs;
    } libraries[] = {
        { "ZeroMQ", zmq_built, zmq_runs },
        { "libuv", UV_BUILT, uv_version_string() },
        { "libsodium", SODIUM_VERSION_STRING, sodium_version_string() },
        { "jansson", JANSSON_VERSION, jansson_version_str() },
        { "zlib", ZLIB_VERSION, zlibVersion() },
        { "libcurl", curl_built, curl_runs },
    };
    char all[256] = "";
    for (size_t i = 0; i < sizeof libraries / sizeof *libraries; i++) {
        snprintf(all + strlen(all), sizeof all - strlen(all), "%s%s %s", i ? ", " : "", libraries[i].name, libraries[i].runs);
        if (strtol(libraries[i].built, NULL, 10) != strtol(libraries[i].runs, NULL, 10))
            psd_finding(findings, PSD_VERDICT_BAD, "libraries",
                        "build psd on this machine, or install the library it was built with",
                        "%s is %s, but psd was built with %s", libraries[i].name, libraries[i].runs, libraries[i].built);
    }
    psd_finding(findings, PSD_VERDICT_OK, "libraries", "", "%s", all);
}

/* Kibibytes of a line of /proc/meminfo, as GiB. */
static double meminfo(const char *key)
{
    char text[64];
    read_line("/proc/meminfo", key, text, sizeof text);
    return strtod(text, NULL) / (1 << 20);
}

void psd_check_memory(psd_findings_t *findings, const psd_options_t *options, bool has_job)
{
    (void)has_job;
    char limit[64];
    const double total = meminfo("MemTotal"), free = meminfo("MemAvailable"), swap = meminfo("SwapTotal"), gib = 1 << 30;
    const double most = (double)psd_options_uint(options, PSD_OPT_memory_max) / gib;
    read_line("/sys/fs/cgroup/memory.max", "", limit, sizeof limit);
    const double allowed = *limit && strcmp(limit, "max") != 0 ? strtod(limit, NULL) / gib : total;
    psd_finding(findings, free < 0.25 ? PSD_VERDICT_WARN : PSD_VERDICT_OK, "memory",
                free < 0.25 ? "stop other programs that run here" : "", "%.1f GiB, %.1f GiB of it available, %.1f GiB swap", total,
                free, swap);
    if (allowed < total)
        psd_finding(findings, PSD_VERDICT_OK, "memory", "", "this control group may use %.1f GiB", allowed);
    if (most > allowed)
        psd_finding(findings, PSD_VERDICT_WARN, "memory", "set memory.max below it, so that psd acts before the kernel kills it",
                    "memory.max is %.1f GiB, more than the %.1f GiB that this machine has", most, allowed);
}

void psd_check_limits(psd_findings_t *findings, const psd_options_t *options, bool has_job)
{
    (void)has_job;
    struct rlimit files, locked, core;
    /* ZeroMQ takes two descriptors per peer, and a few for itself. */
    const int64_t least = psd_options_int(options, PSD_OPT_workers_min), want = psd_options_int(options, PSD_OPT_workers_want);
    const rlim_t needed = 64 + 2 * (rlim_t)((want > least ? want : least) + psd_options_int(options, PSD_OPT_servers));
    getrlimit(RLIMIT_NOFILE, &files);
    getrlimit(RLIMIT_MEMLOCK, &locked);
    getrlimit(RLIMIT_CORE, &core);
    if (files.rlim_cur < needed)
        psd_finding(findings, PSD_VERDICT_BAD, "limits", "ulimit -n 65536, or LimitNOFILE=65536 in the unit",
                    "%" PRIu64 " open files, but this job needs %" PRIu64, (uint64_t)files.rlim_cur, (uint64_t)needed);
    else
        psd_finding(findings, PSD_VERDICT_OK, "limits", "", "%" PRIu64 " open files; this job needs %" PRIu64,
                    (uint64_t)files.rlim_cur, (uint64_t)needed);
    if (locked.rlim_cur < 65536)
        psd_finding(findings, PSD_VERDICT_WARN, "limits", "ulimit -l 64, or LimitMEMLOCK=64K in the unit",
                    "%" PRIu64 " bytes of locked memory: keys could be swapped out", (uint64_t)locked.rlim_cur);
}

void psd_check_clock(psd_findings_t *findings, const psd_options_t *options, bool has_job)
{
    (void)options, (void)has_job;
    struct timespec step;
    struct timex kernel = { .modes = 0 };
    char source[64];
    clock_getres(CLOCK_MONOTONIC, &step);
    read_line("/sys/devices/system/clocksource/clocksource0/current_clocksource", "", source, sizeof source);
    const bool coarse = step.tv_sec || step.tv_nsec > 1000000;
    const bool is_set = adjtimex(&kernel) != TIME_ERROR;
    psd_finding(findings, coarse ? PSD_VERDICT_WARN : PSD_VERDICT_OK, "clock", coarse ? "boot with another clock source" : "",
                "steps of %ld ns, from %s; %s", (long)step.tv_nsec, *source ? source : "an unknown source",
                is_set ? "kept by a time server"
                       : "no time server keeps it, which matters only for comparing logs of several machines");
}
