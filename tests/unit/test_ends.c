/* The page of exit codes matches the table; PSD_WRITE_PAGES=1 rewrites it. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "tests/support/kept.h"

static const struct end {
    const char *id, *programs;
    int code;
    const char *outcome, *situation, *disk, *next, *todo;
    bool scripted;
} ends[] = {
#define END(id, programs, code, outcome, situation, disk, next, todo)                                                              \
    { #id, programs, code, outcome, situation, disk, next, todo, true },
#define OTHER(id, programs, code, outcome, situation, disk, next, todo)                                                            \
    { #id, programs, code, outcome, situation, disk, next, todo, false },
#include "common/base/ends.def"
#undef END
#undef OTHER
};

enum { N = sizeof ends / sizeof *ends };

static void print_page(FILE *out)
{
    fputs(
        "# Exit codes\n\n"
        "Every way in which a program of psd can end, and what to do then. This page is made from `common/base/ends.def`.\n\n"
        "`psdctl run` restarts a worker, unless `workers.lost` is `drop`, and a server if `checkpoint.dir` is set. If it cannot, "
        "or\n"
        "if the `restarts` are used up, the end of a server stops the job with that code; so does the end of a worker, unless the\n"
        "others continue without it. A program of your own (`psdctl run JOB -- PROGRAM`) is restarted only after 69, 75 or a "
        "signal:\n"
        "psd does not know what its other codes mean.\n\n"
        "| code | programs | situation | what to do | outcome in `summary.json` | on disk | what `psdctl run` does next |\n"
        "|---|---|---|---|---|---|---|\n",
        out);
    for (int code = 0; code < 256; code++)
        for (size_t i = 0; i < N; i++)
            if (ends[i].code == code)
                fprintf(out, "| %d | %s | %s | %s | %s | %s | %s |\n", code, ends[i].programs, ends[i].situation, ends[i].todo,
                        ends[i].outcome, ends[i].disk, ends[i].next);
}

Test(ends, every_way_has_a_short_advice)
{
    for (size_t i = 0; i < N; i++)
        cr_expect(strlen(ends[i].todo) > 5 && strlen(ends[i].todo) < 160, "%s: %s", ends[i].id, ends[i].todo);
}

Test(ends, the_page_is_the_table)
{
    char *page;
    size_t n;
    FILE *out = open_memstream(&page, &n);
    print_page(out);
    fclose(out);
    expect_kept("docs/exit-codes.md", page);
    free(page);
}

Test(ends, every_code_has_a_situation_and_every_outcome_is_a_code)
{
    for (int code = -1; strcmp(psd_err_text(code), "unknown error"); code--) {
        bool found = false;
        for (size_t i = 0; i < N; i++)
            found |= ends[i].code == psd_err_exit_code(code);
        cr_expect(found, "no row has %d", psd_err_exit_code(code));
    }
    for (size_t i = 0; i < N; i++)
        for (int code = -1; strcmp(psd_err_text(code), "unknown error"); code--)
            if (!strcmp(psd_err_text(code), ends[i].outcome))
                cr_expect_eq(psd_err_exit_code(code), ends[i].code, "%s", ends[i].id);
}

Test(ends, the_script_walks_the_table)
{
    char *script = kept_read("tests/system/ends.sh");
    char function[80];
    for (size_t i = 0; i < N; i++) {
        snprintf(function, sizeof function, "\n%s() {", ends[i].id);
        cr_expect(!ends[i].scripted == !strstr(script, function), "system/ends.sh and %s", ends[i].id);
    }
    free(script);
}
