#include "tests/faults/flags.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static _Noreturn void usage(const flag_t *flags, const char *about, int code)
{
    FILE *out = code ? stderr : stdout;
    fprintf(out, "%s\n", about);
    for (; flags->name; flags++) {
        char text[64];
        snprintf(text, sizeof text, "--%s=%s", flags->name, flags->takes);
        fprintf(out, "  %-22s %s\n", text, flags->help);
    }
    exit(code);
}

static bool take(const flag_t *flag, const char *word)
{
    const size_t n = strlen(flag->name);
    char *end;
    if (strncmp(word, "--", 2) || strncmp(word + 2, flag->name, n) || word[2 + n] != '=')
        return false;
    if (flag->text) {
        *flag->text = word + 3 + n;
        return true;
    }
    *flag->number = strtoull(word + 3 + n, &end, 10);
    return end > word + 3 + n && !*end;
}

void flags_read(const flag_t *flags, const char *about, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        bool taken = false;
        for (const flag_t *flag = flags; flag->name && !taken; flag++)
            taken = take(flag, argv[i]);
        if (!taken)
            usage(flags, about, strcmp(argv[i], "--help") ? 64 : 0);
    }
}
