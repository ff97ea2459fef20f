#include "common/base/printable.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

/* The number of bytes of a character that begins with `first`; 0 when no character does. */
static size_t size_of(unsigned char first)
{
    return first < 0x80 ? 1 : first < 0xc2 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : first < 0xf5 ? 4 : 0;
}

/* The least code point that needs this many bytes. */
static const unsigned least[] = { 0, 0, 0x80, 0x800, 0x10000 };

/* Bytes of the character at `text`, of which `n` bytes are there, and its code; 0 when it is not UTF-8. */
static size_t decode(const char *text, size_t n, unsigned *code)
{
    const unsigned char *at = (const unsigned char *)text;
    const size_t size = n ? size_of(*at) : 0;
    if (!size || size > n)
        return 0;
    *code = size == 1 ? *at : *at & (0x7fu >> size);
    for (size_t i = 1; i < size; i++) {
        if ((at[i] & 0xc0) != 0x80)
            return 0;
        *code = *code << 6 | (at[i] & 0x3fu);
    }
    const bool is_surrogate = *code >= 0xd800 && *code < 0xe000;
    return *code >= least[size] && *code <= 0x10ffff && !is_surrogate ? size : 0;
}

/* Controls, those of C1, and those that turn the direction of what follows, are not. */
static bool is_harmless(unsigned code)
{
    return code >= ' ' && !(code >= 0x7f && code < 0xa0) && !(code >= 0x200e && code <= 0x200f) &&
           !(code >= 0x2028 && code <= 0x202e) && !(code >= 0x2066 && code <= 0x2069);
}

size_t psd_printable_character(const char *text, size_t n)
{
    unsigned code;
    const size_t size = decode(text, n, &code);
    return size && is_harmless(code) ? size : 0;
}

bool psd_are_utf8(const char *text, size_t n)
{
    const char *end = text + n;
    unsigned code;
    for (size_t size; text < end; text += size)
        if (!(size = decode(text, (size_t)(end - text), &code)))
            return false;
    return true;
}

bool psd_is_utf8(const char *text) { return psd_are_utf8(text, strlen(text)); }

static size_t escape(char out[8], unsigned char byte)
{
    const char *letter = byte == '\n' ? "\\n" : byte == '\r' ? "\\r" : byte == '\t' ? "\\t" : NULL;
    return (size_t)(letter ? snprintf(out, 8, "%s", letter) : snprintf(out, 8, "\\x%02x", byte));
}

char *psd_printable(char *out, size_t room, const char *text, size_t n)
{
    static const char cut[] = "...";
    assert(room > sizeof cut);
    const char *at = text, *end = text + n;
    size_t used = 0, safe = 0; /* safe: the longest beginning that leaves room for the dots */
    while (at < end) {
        char piece[8];
        size_t taken = psd_printable_character(at, (size_t)(end - at)), length = taken;
        if (taken)
            memcpy(piece, at, taken);
        else
            taken = 1, length = escape(piece, (unsigned char)*at);
        if (used + length >= room) {
            snprintf(out + safe, room - safe, "%s", cut);
            return out;
        }
        memcpy(out + used, piece, length);
        used += length;
        at += taken;
        safe = used + sizeof cut <= room ? used : safe;
    }
    out[used] = '\0';
    return out;
}
