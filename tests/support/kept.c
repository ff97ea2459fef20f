#include "tests/support/kept.h"

#include <assert.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool is_written;

/* Before a test clears its environment. */
__attribute__((constructor)) static void look_whether_to_write(void) { is_written = getenv("PSD_WRITE_PAGES") != NULL; }

static FILE *open_kept(const char *path, const char *how)
{
    char whole[512];
    snprintf(whole, sizeof whole, PSD_SOURCE_DIR "/%s", path);
    return fopen(whole, how);
}

char *kept_read(const char *path)
{
    char *text = NULL;
    size_t n;
    FILE *copy = open_memstream(&text, &n), *file = open_kept(path, "r");
    assert(copy);
    for (int c; file && (c = fgetc(file)) != EOF;)
        fputc(c, copy);
    if (file)
        fclose(file);
    fclose(copy);
    return text;
}

static void write_kept(const char *path, const char *text)
{
    FILE *file = open_kept(path, "w");
    assert(file);
    fputs(text, file);
    fclose(file);
}

const char *kept_difference(const char *path, const char *text)
{
    static char difference[16384];
    if (is_written)
        write_kept(path, text);
    char *const whole = kept_read(path);
    const char *kept = whole, *heading = "", *found = NULL;
    for (unsigned line = 1; !found && (*kept || *text); line++) {
        const size_t n = strcspn(kept, "\n"), m = strcspn(text, "\n");
        if (n != m || strncmp(kept, text, n) || !kept[n] != !text[m]) {
            snprintf(difference, sizeof difference, "%s:%u, below \"%.*s\":\n  the file has:  %.*s\n  it is now:     %.*s", path,
                     line, (int)strcspn(heading, "\n"), heading, (int)n, kept, (int)m, text);
            found = difference;
        }
        if (*kept == '>' || !strncmp(kept, "==", 2))
            heading = kept;
        kept += n + (kept[n] == '\n');
        text += m + (text[m] == '\n');
    }
    free(whole);
    return found;
}
