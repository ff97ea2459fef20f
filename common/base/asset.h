/* asset.h - a file that is built into a program (common/embed.cmake): a page, a style, a script. */
#pragma once

#include <stddef.h>

typedef struct psd_asset {
    const char *bytes; /* followed by a NUL */
    size_t n_bytes;
} psd_asset_t;
