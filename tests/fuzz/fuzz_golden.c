/* fuzz_golden.c - any bytes as a golden file: accepted cases are complete, with a gradient of finite values in every step; refusals
 * name file and line. */
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "deploy/psdctl/inspect/golden.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_whole(const psd_golden_case_t *c)
{
    if (c->schedules) {
        assert(!c->n && !c->w0 && c->n_steps > 0 && c->lr > 0 && c->schedule.kind);
        for (size_t t = 0; t < c->n_steps; t++)
            assert(psd_schedule_rate(&c->schedule, c->lr, (double)t) >= 0);
        return;
    }
    assert(c->n > 0 && c->n_steps > 0 && c->w0 && c->id[0] && c->spec[0]);
    for (size_t t = 0; t < c->n_steps; t++) {
        const psd_golden_step_t *step = &c->steps[t];
        assert(!step->g != !step->n_pushes);
        for (size_t i = 0; i < c->n; i++) {
            assert(!step->g || isfinite(step->g[i]));
            for (size_t k = 0; k < step->n_pushes; k++)
                assert(isfinite(step->pushes[k].g[i]));
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    psd_err_t err = { .text = "" };
    FILE *file = size ? fmemopen((void *)(uintptr_t)data, size, "r") : NULL;
    if (!file)
        return 0;
    psd_golden_t *reader = psd_golden_new(file, "f", &err);
    assert(reader);
    for (psd_golden_case_t *c = NULL;;) {
        const int rc = psd_golden_next(reader, &c, &err);
        if (rc || !c) {
            assert(!rc || (rc == PSD_EDATA && strncmp(err.text, "f:", 2) == 0));
            break;
        }
        check_whole(c);
        psd_golden_case_destroy(&c);
    }
    psd_golden_destroy(&reader);
    fclose(file);
    return 0;
}
