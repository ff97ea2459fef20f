/* alloc_fault.c - a preloaded library that makes one allocation fail: the ALLOC_FAULT_AT-th of the program ALLOC_FAULT_IN, in the
 * first process that gets there, which is the one that removes the file ALLOC_FAULT_ONCE. */
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* glibc's functions, under the names for libraries that replace them. */
#define EXPORTED __attribute__((visibility("default")))

void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *old, size_t n);

static atomic_ulong count;
static atomic_ulong fails_at; /* 0: never */

static void __attribute__((constructor)) begin(void)
{
    const char *at = getenv("ALLOC_FAULT_AT"), *in = getenv("ALLOC_FAULT_IN");
    if (at && in && !strcmp(program_invocation_short_name, in))
        fails_at = strtoul(at, NULL, 10);
    count = 0;
}

/* libgfortran, which comes with OpenBLAS, ends the process with 1 when it has no memory; the next allocation fails instead. */
static int is_spared(const void *caller)
{
    Dl_info object;
    return dladdr(caller, &object) && strstr(object.dli_fname, "libgfortran");
}

static int fails(const void *caller)
{
    if (!fails_at || ++count < fails_at || is_spared(caller) || !atomic_exchange(&fails_at, 0) ||
        unlink(getenv("ALLOC_FAULT_ONCE")))
        return 0;
    errno = ENOMEM;
    return 1;
}

#define FAILS fails(__builtin_return_address(0))

EXPORTED void *malloc(size_t n) { return FAILS ? NULL : __libc_malloc(n); }
EXPORTED void *calloc(size_t n, size_t size) { return FAILS ? NULL : __libc_calloc(n, size); }
EXPORTED void *realloc(void *old, size_t n) { return FAILS ? NULL : __libc_realloc(old, n); }
