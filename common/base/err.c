#include "common/base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Sentences quote input from people and files, so replace control characters, which could steer a terminal. Newlines are
 * allowed. */
static void tame(char *text)
{
    for (; *text; text++)
        if (((unsigned char)*text < ' ' && *text != '\n') || *text == 0x7f)
            *text = '?';
}

int psd_err_set(psd_err_t *err, int code, const char *format, ...)
{
    if (!err)
        return code;
    va_list args;
    va_start(args, format);
    err->code = code;
    vsnprintf(err->text, sizeof err->text, format, args);
    va_end(args);
    tame(err->text);
    return code;
}

int psd_err_wrap(psd_err_t *err, const char *format, ...)
{
    if (!err)
        return PSD_EINVAL;
    char context[sizeof err->text], whole[2 * sizeof err->text + 3];
    va_list args;
    va_start(args, format);
    vsnprintf(context, sizeof context, format, args);
    va_end(args);
    tame(context);
    snprintf(whole, sizeof whole, "%s: %s", context, err->text);
    memcpy(err->text, whole, sizeof err->text - 1);
    err->text[sizeof err->text - 1] = '\0';
    return err->code;
}

const char *psd_err_text(int code)
{
    switch (code) {
    case PSD_OK:
        return "success";
#define X(name, value, text, exit_code)                                                                                            \
    case name:                                                                                                                     \
        return text;
        PSD_ERRORS(X)
#undef X
    }
    return "unknown error";
}

int psd_err_exit_code(int code)
{
    switch (code) {
    case PSD_OK:
        return 0;
#define X(name, value, text, exit_code)                                                                                            \
    case name:                                                                                                                     \
        return exit_code;
        PSD_ERRORS(X)
#undef X
    }
    return 70;
}
