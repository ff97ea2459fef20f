/* The page of exit codes is the table; PSD_WRITE_PAGES=1 writes it anew. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"

static const struct end {
    const char *id, *programs;
    int code;
    const char *outcome, *situation, *disk, *next;
    bool scripted;
} ends[] = {
#define END(id, programs, code, outcome, situation, disk, next)   { #id, programs, code, outcome, situation, disk, next, true },
#define OTHER(id, programs, code, outcome, situation, disk, next) { #id, programs, code, outcome, situation, disk, next, false },
#include "common/base/ends.def"
#undef END
#undef OTHER
};

enum { N = sizeof ends / sizeof *ends };

static char *read_whole(const char *name)
{
    static char text[1 << 17];
    char path[512];
    snprintf(path, sizeof path, PSD_SOURCE_DIR "/%s", name);
    FILE *file = fopen(path, "r");
    const size_t n = file ? fread(text, 1, sizeof text - 1, file) : 0;
    text[n] = '\0';
    if (file)
        fclose(file);
    return text;
}

static void print_page(FILE *out)
{
    fputs("# Exit codes\n\nEvery way a program of psd can end. This page is made from `common/base/ends.def`.\n\n"
          "`psdctl run` starts again a worker, unless `workers.lost` is `drop`, and a server where `checkpoint.dir` is set. Where "
          "it\n"
          "cannot, or where `restarts` are used, the end of a server stops the job with that code, and so does the end of a "
          "worker, unless\n"
          "the others go on without it.\n\n"
          "| code | programs | situation | outcome in `summary.json` | on disk | what `psdctl run` does next |\n"
          "|---|---|---|---|---|---|\n",
          out);
    for (int code = 0; code < 256; code++)
        for (size_t i = 0; i < N; i++)
            if (ends[i].code == code)
                fprintf(out, "| %d | %s | %s | %s | %s | %s |\n", code, ends[i].programs, ends[i].situation, ends[i].outcome,
                        ends[i].disk, ends[i].next);
}

Test(ends, the_page_is_the_table)
{
    char *page;
    size_t n;
    FILE *out = open_memstream(&page, &n);
    print_page(out);
    fclose(out);
    if (getenv("PSD_WRITE_PAGES")) {
        FILE *file = fopen(PSD_SOURCE_DIR "/docs/exit-codes.md", "w");
        cr_assert_not_null(file);
        fputs(page, file);
        fclose(file);
    }
    cr_assert_str_eq(read_whole("docs/exit-codes.md"), page);
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
    const char *script = read_whole("tests/system/ends.sh");
    char function[80];
    for (size_t i = 0; i < N; i++) {
        snprintf(function, sizeof function, "\n%s() {", ends[i].id);
        cr_expect(!ends[i].scripted == !strstr(script, function), "system/ends.sh and %s", ends[i].id);
    }
}
