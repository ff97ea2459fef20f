#include "common/net/hostlist.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_DIGITS = 9, MOST_HOSTS = 1 << 24 };

/* A range of a bracket: "01-03", or "7", which is 7-7. */
typedef struct range {
    size_t first, last;
    int width; /* digits, with zeros in front */
} range_t;

/* Read a number of at most MOST_DIGITS digits and advance past it; false when there is none. */
static bool read_number(const char **p, size_t *number, int *width)
{
    const char *start = *p;
    *number = 0;
    while (isdigit((unsigned char)**p) && *p - start < MOST_DIGITS)
        *number = *number * 10 + (size_t)(*(*p)++ - '0');
    *width = (int)(*p - start);
    return *width > 0 && !isdigit((unsigned char)**p);
}

/* Read a range up to the comma or bracket that ends it, where `*p` then points. */
static bool read_range(const char **p, range_t *out)
{
    int width;
    if (!read_number(p, &out->first, &out->width))
        return false;
    out->last = out->first;
    if (**p == '-' && (++*p, !read_number(p, &out->last, &width)))
        return false;
    return out->last >= out->first && (**p == ',' || **p == ']');
}

/* The count of numbers in the bracket at `p`, 0 when it is malformed; prints number `index` of them to `digits`. */
static size_t look_into_bracket(const char *p, size_t index, char *digits, size_t capacity)
{
    size_t n = 0;
    do {
        range_t range;
        p++;
        if (!read_range(&p, &range))
            return 0;
        if (index >= n && index - n <= range.last - range.first)
            snprintf(digits, capacity, "%0*zu", range.width, range.first + index - n);
        n += range.last - range.first + 1;
    } while (*p == ',' && n <= MOST_HOSTS);
    return n <= MOST_HOSTS ? n : 0;
}

/* Where the name at `p` ends: at a comma outside of brackets, or at the end; NULL when a bracket stays open. */
static const char *name_end(const char *p)
{
    for (; *p && *p != ','; p++)
        if (*p == '[' && !(p = strchr(p, ']')))
            return NULL;
    return p;
}

/* The number of hosts in the name from `name` to `end`, 0 when it is malformed. */
static size_t count_hosts(const char *name, const char *end)
{
    size_t n = end > name;
    for (const char *p = name; p < end && n && n <= MOST_HOSTS; p++) {
        if (*p == '[') {
            n *= look_into_bracket(p, SIZE_MAX, NULL, 0);
            p = strchr(p, ']');
        } else if (*p == ']' || !isgraph((unsigned char)*p)) {
            n = 0;
        }
    }
    return n <= MOST_HOSTS ? n : 0;
}

/* Write host `index` of the name from `name` to `end`; false when it does not fit. */
static bool print_host(const char *name, const char *end, size_t index, char *out, size_t capacity)
{
    size_t at = 0, left = count_hosts(name, end);
    for (const char *p = name; p < end && at < capacity; p++) {
        char digits[32] = { *p, '\0' };
        if (*p == '[') {
            left /= look_into_bracket(p, SIZE_MAX, NULL, 0); /* hosts that share this bracket's number */
            look_into_bracket(p, index / left, digits, sizeof digits);
            index %= left;
            p = strchr(p, ']');
        }
        at += (size_t)snprintf(out + at, capacity - at, "%s", digits);
    }
    return at < capacity && count_hosts(out, out + strlen(out));
}

int psd_hostlist_at(const char *list, size_t index, char *out, size_t capacity, psd_err_t *err)
{
    size_t before = 0;
    for (const char *name = list, *end; *list; name = end + 1) {
        end = name_end(name);
        const size_t n = end ? count_hosts(name, end) : 0;
        if (!n)
            return psd_err_set(err, PSD_EINVAL, "\"%.100s\" is not a list of hosts such as n[1-3,7]", list);
        if (index - before < n) {
            if (print_host(name, end, index - before, out, capacity))
                return PSD_OK;
            return psd_err_set(err, PSD_EINVAL, "a host's name in \"%.100s\" is too long", list);
        }
        before += n;
        if (!*end)
            break;
    }
    return psd_err_set(err, PSD_EINVAL, "\"%.100s\" has no host %zu: it lists %zu, counted from 0", list, index, before);
}
