#include "common/optim/isa.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>

#include "common/optim/kernels/kernel.h"

static bool always(void) { return true; }

#ifdef __x86_64__
extern const psd_isa_t psd_isa_sse2, psd_isa_avx2, psd_isa_avx512;
static bool has_avx2(void) { return __builtin_cpu_supports("avx2"); }
static bool has_avx512(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#else
extern const psd_isa_t psd_isa_generic;
#endif

/* From the plainest to the widest; a processor that can run one can run those before it. */
static const struct {
    const psd_isa_t *isa;
    bool (*runs_here)(void);
} isas[] = {
#ifdef __x86_64__
    { &psd_isa_sse2, always },
    { &psd_isa_avx2, has_avx2 },
    { &psd_isa_avx512, has_avx512 },
#else
    { &psd_isa_generic, always },
#endif
};
enum { N_ISAS = sizeof isas / sizeof *isas };

/* Set by the first who asks; threads that ask at once find the same answer. */
static _Atomic(const psd_isa_t *) active;

const char *psd_isa_at(size_t i) { return i < N_ISAS && isas[i].runs_here() ? isas[i].isa->name : NULL; }

const psd_isa_t *psd_isa_active(void)
{
    const psd_isa_t *isa = atomic_load_explicit(&active, memory_order_acquire);
    if (isa)
        return isa;
    for (size_t i = 0; psd_isa_at(i); i++)
        isa = isas[i].isa;
    atomic_store_explicit(&active, isa, memory_order_release);
    return isa;
}

const psd_isa_t *psd_isa_plainest(void) { return isas[0].isa; }

int psd_isa_select(const char *name, psd_err_t *err)
{
    for (size_t i = 0; psd_isa_at(i); i++)
        if (strcmp(psd_isa_at(i), name) == 0) {
            atomic_store_explicit(&active, isas[i].isa, memory_order_release);
            return PSD_OK;
        }
    return psd_err_set(err, PSD_EINVAL, "no instruction set '%s' on this processor", name);
}

const char *psd_isa_name(void) { return psd_isa_active()->name; }
