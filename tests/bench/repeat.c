#include "tests/bench/repeat.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

double repeat_now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double repeat_median(double *values, size_t n)
{
    qsort(values, n, sizeof *values, compare);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

_Noreturn void repeat_die(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    exit(1);
}

pid_t repeat_fork(void)
{
    const pid_t parent = getpid(), pid = fork();
    if (pid < 0)
        repeat_die("cannot fork");
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            _exit(1);
    }
    return pid;
}

const char *repeat_place(bool far)
{
    const char *network = getenv("BENCH_FAR"), *address = getenv("BENCH_FAR_ADDRESS");
    if (!far)
        return "127.0.0.1";
    if (!network || !address)
        repeat_die("there is no other host: run this program by tests/bench/link");
    const int fd = open(network, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || setns(fd, CLONE_NEWNET))
        repeat_die("cannot move to the other host: %s", strerror(errno));
    close(fd);
    return address;
}

void repeat_keep_heap(void)
{
    mallopt(M_ARENA_MAX, 1);
    mallopt(M_MMAP_THRESHOLD, 64 << 20);
    mallopt(M_TRIM_THRESHOLD, 512 << 20);
}

float *repeat_floats(size_t n, float value)
{
    float *self = malloc(n * sizeof *self);
    if (!self)
        repeat_die("no memory for %zu floats", n);
    for (size_t i = 0; i < n; i++)
        self[i] = value;
    return self;
}

static void say(const char *line)
{
    if (fputs(line, stdout) < 0 || fflush(stdout))
        exit(0);
}

void repeat_ready(void) { say("ready\n"); }

bool repeat_asked(void)
{
    char line[16];
    return fgets(line, sizeof line, stdin);
}

void repeat_answer(double mean_s, double median_s)
{
    char line[64];
    snprintf(line, sizeof line, "%.9f %.9f\n", mean_s, median_s);
    say(line);
}

void repeat_serve(void (*unit)(void *arg), void *arg, size_t units)
{
    double *seconds = calloc(units, sizeof *seconds);
    if (!seconds)
        repeat_die("no memory");
    for (size_t i = 0; i < units || i < 5; i++)
        unit(arg);
    repeat_ready();
    while (repeat_asked()) {
        const double begin = repeat_now_s();
        double before = begin;
        for (size_t i = 0; i < units; i++) {
            unit(arg);
            const double now = repeat_now_s();
            seconds[i] = now - before;
            before = now;
        }
        repeat_answer((before - begin) / (double)units, repeat_median(seconds, units));
    }
    free(seconds);
}
