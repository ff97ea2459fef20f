/* alloc_fault.c - preloaded, lets one allocation fail: the ALLOC_FAULT_AT-th of the program ALLOC_FAULT_IN,
 * in the first process that gets there, which is the one that removes the file ALLOC_FAULT_ONCE. */
#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* glibc's own, under the names that it has for who replaces them. */
#define EXPORTED __attribute__((visibility("default")))

void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *old, size_t n);

static atomic_ulong count;
static unsigned long fails_at; /* 0: never */

static void __attribute__((constructor)) begin(void)
{
    const char *at = getenv("ALLOC_FAULT_AT"), *in = getenv("ALLOC_FAULT_IN");
    if (at && in && !strcmp(program_invocation_short_name, in))
        fails_at = strtoul(at, NULL, 10);
    count = 0;
}

static int fails(void)
{
    if (!fails_at || ++count != fails_at || unlink(getenv("ALLOC_FAULT_ONCE")))
        return 0;
    errno = ENOMEM;
    return 1;
}

EXPORTED void *malloc(size_t n) { return fails() ? NULL : __libc_malloc(n); }
EXPORTED void *calloc(size_t n, size_t size) { return fails() ? NULL : __libc_calloc(n, size); }
EXPORTED void *realloc(void *old, size_t n) { return fails() ? NULL : __libc_realloc(old, n); }
