/* repeat.h - shared code of all programs that bench.c measures: a program warms up, reports that, and repeats its work whenever its
 * parent requests it, so that programs take turns and each is timed while the others sleep.
 *
 *     > ready              it is warm; or: skip REASON, and it ends
 *     < (an empty line)    repeat
 *     > MEAN MEDIAN        seconds of one unit of work, over those of this repetition
 *     < (end of file)      end
 *
 * The programs in peers/ use the same protocol through repeat.py. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "common/config/option.h"

/* Rows of flags that several of these programs take: the units of work in one repetition; and whether freed megabytes are kept for
 * the next ones, as psd's servers do, or use the C library's default heap. */
#define REPEAT_UNITS                                                                                                               \
    {                                                                                                                              \
        .key = "units", .type = PSD_OPTION_UINT64, .preset = "1", .range = "1..1000000", .help = "of work in one repetition"       \
    }
#define REPEAT_PARAMETERS                                                                                                          \
    {                                                                                                                              \
        .key = "parameters", .type = PSD_OPTION_UINT64, .preset = "25165824", .range = "1..",                                      \
        .help = "float32, of the whole model"                                                                                      \
    }
#define REPEAT_KEEP_HEAP                                                                                                           \
    {                                                                                                                              \
        .key = "keep-heap", .type = PSD_OPTION_SWITCH, .help = "keep freed megabytes for the next ones"                            \
    }
#define REPEAT_FAR                                                                                                                 \
    {                                                                                                                              \
        .key = "far", .type = PSD_OPTION_SWITCH, .help = "servers run on the other host of tests/bench/link"                       \
    }

/* Do `unit(arg)` at least five times, and `units` times, to warm up; then as above until the parent closes the pipe. */
void repeat_serve(void (*unit)(void *arg), void *arg, size_t units);

/* The same for work that measures itself: report that it is warm; wait for a request, false at the parent's end; answer. */
void repeat_ready(void);
bool repeat_asked(void);
void repeat_answer(double mean_s, double median_s);

/* End the whole program with a sentence on stderr. */
_Noreturn void repeat_die(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Fork a child that ends with its parent. 0: in the child. */
pid_t repeat_fork(void);

/* Where this process, a server, is to listen: an address of loopback. If `far`, it moves to the other host of tests/bench/link first,
 * and the address is that host's. */
const char *repeat_place(bool far);

/* As psd's main() does for itself: one heap, from which freed blocks below 64 MiB are not given back. Call it before anything
 * else. */
void repeat_keep_heap(void);

/* `n` floats whose pages have been touched. */
float *repeat_floats(size_t n, float value);

double repeat_now_s(void);

/* Of n >= 1 values, which are sorted by it. */
double repeat_median(double *values, size_t n);
