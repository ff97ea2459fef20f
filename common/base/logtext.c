#include "common/base/logtext.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "common/base/printable.h"

typedef struct out {
    char *at, *end; /* one byte is kept for the end of the text */
} out_t;

static void put(out_t *self, char c)
{
    if (self->at < self->end)
        *self->at++ = c;
}

int psd_logtext_is_plain(const char *s, size_t n)
{
    for (size_t i = 0, size; i < n; i += size) {
        size = psd_printable_character(s + i, n - i);
        if (!size || strchr(" \"=\\", s[i]))
            return 0;
    }
    return n > 0;
}

/* ---- strings, by their position ---- */

static void put_escaped(out_t *self, const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (s[i] == '"' || s[i] == '\\')
            put(self, '\\');
        put(self, s[i]);
    }
}

static void put_string(out_t *self, const char *s, size_t n, bool in_quotes, bool is_value)
{
    if (in_quotes) {
        put_escaped(self, s, n);
    } else if (is_value && !psd_logtext_is_plain(s, n)) {
        put(self, '"');
        put_escaped(self, s, n);
        put(self, '"');
    } else {
        for (size_t i = 0; i < n; i++)
            put(self, s[i]);
    }
}

/* ---- conversions ---- */

/* One conversion of the format: its text, and the type of its argument. */
typedef struct conversion {
    char text[24];
    const char *end; /* its end */
    char kind, size; /* 's'; the letter of the length modifier, 'L' for ll, 'H' for hh, 0 for none */
    int precision;   /* of a string; -1: all of it */
} conversion_t;

static conversion_t read_conversion(const char *at, va_list *args)
{
    conversion_t c = { .precision = -1 };
    const char *s = at + 1;
    size_t n = 0;
    c.text[n++] = '%';
    for (; *s && strchr("-+ #0123456789.*", *s) && n < sizeof c.text - 8; s++) {
        if (*s == '*')
            n += (size_t)snprintf(c.text + n, sizeof c.text - n, "%d", va_arg(*args, int));
        else
            c.text[n++] = *s;
    }
    for (; *s && strchr("hlzjt", *s); s++) {
        c.size = c.size == *s ? (char)(*s - 'a' + 'A') : *s;
        c.text[n++] = *s;
    }
    c.text[n++] = c.kind = *s;
    c.text[n] = '\0';
    c.end = *s ? s + 1 : s;
    const char *point = strchr(c.text, '.');
    if (point)
        sscanf(point + 1, "%d", &c.precision);
    return c;
}

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral" /* it is a piece of a format that the compiler has checked */
static void put_number(out_t *self, const conversion_t *c, va_list *args)
{
    char text[400];
    int n = 0;
    if (strchr("fFeEgG", c->kind))
        n = snprintf(text, sizeof text, c->text, va_arg(*args, double));
    else if (c->kind == 'p')
        n = snprintf(text, sizeof text, c->text, va_arg(*args, void *));
    else if (c->size == 'l')
        n = snprintf(text, sizeof text, c->text, va_arg(*args, long));
    else if (c->size == 'L')
        n = snprintf(text, sizeof text, c->text, va_arg(*args, long long));
    else if (c->size == 'z' || c->size == 't')
        n = snprintf(text, sizeof text, c->text, va_arg(*args, size_t));
    else if (c->size == 'j')
        n = snprintf(text, sizeof text, c->text, va_arg(*args, intmax_t));
    else
        n = snprintf(text, sizeof text, c->text, va_arg(*args, int));
    for (int i = 0; i < n && i < (int)sizeof text - 1; i++)
        put(self, text[i]);
}
#pragma GCC diagnostic pop

/* Whether the %s before `end` is the whole value of a field: "key=%s", then the next field or the end. */
static bool is_all_of_a_value(const char *format, const char *at, const char *end)
{
    const size_t word = *end == ' ' ? strcspn(end + 1, "= ") : 0;
    return at > format && at[-1] == '=' && (!*end || (*end == ' ' && end[1 + word] == '='));
}

size_t psd_logtext_compose(char *out, size_t n, const char *format, va_list args)
{
    out_t self = { out, out + n - 1 };
    va_list rest;
    bool in_quotes = false;
    va_copy(rest, args);
    for (const char *s = format; *s;) {
        if (*s != '%') {
            in_quotes ^= *s == '"';
            put(&self, *s++);
            continue;
        }
        const conversion_t c = read_conversion(s, &rest);
        if (c.kind == 's') {
            const char *text = va_arg(rest, const char *);
            text = text ? text : "(none)";
            put_string(&self, text, c.precision >= 0 ? strnlen(text, (size_t)c.precision) : strlen(text), in_quotes,
                       is_all_of_a_value(format, s, c.end));
        } else if (c.kind == '%') {
            put(&self, '%');
        } else {
            put_number(&self, &c, &rest);
        }
        s = c.end;
    }
    va_end(rest);
    *self.at = '\0';
    return (size_t)(self.at - out);
}
