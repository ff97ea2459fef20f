/* kept.h - whole texts that a test compares with a file of tests/golden/, so that a change of any word of them shows. With
 * PSD_WRITE_PAGES=1 the test writes the file anew; review the difference before it is committed. */
#pragma once

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KEPT_BYTES = 1 << 18 };

static bool kept_is_written;

/* Before a test clears its environment. */
__attribute__((constructor)) static void look_whether_kept_is_written(void) { kept_is_written = getenv("PSD_WRITE_PAGES") != NULL; }

/* Expect `text` to be the file `name`; says the first line that differs. */
static inline void expect_kept(const char *name, const char *text)
{
    char path[512];
    char *there = calloc(1, KEPT_BYTES);
    snprintf(path, sizeof path, "%s/tests/golden/%s", PSD_SOURCE_DIR, name);
    if (kept_is_written) {
        FILE *written = fopen(path, "w");
        cr_assert_not_null(written, "%s", path);
        fputs(text, written);
        fclose(written);
    }
    FILE *file = fopen(path, "r");
    cr_assert_not_null(file, "%s", path);
    cr_assert_lt(fread(there, 1, KEPT_BYTES - 1, file), KEPT_BYTES - 1);
    fclose(file);
    const char *a = there, *b = text;
    for (unsigned line = 1; *a || *b; line++) {
        const size_t n_a = strcspn(a, "\n"), n_b = strcspn(b, "\n");
        const bool same = n_a == n_b && !strncmp(a, b, n_a) && !a[n_a] == !b[n_b];
        cr_assert(same, "%s:%u: \"%.*s\" is now \"%.*s\"", path, line, (int)n_a, a, (int)n_b, b);
        a += n_a + (a[n_a] != '\0');
        b += n_b + (b[n_b] != '\0');
    }
    free(there);
}
