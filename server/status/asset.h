/* asset.h - files of the dashboard that are built into the server (server/CMakeLists.txt), compressed by gzip. */
#pragma once

#include <stddef.h>

typedef struct psd_asset {
    const unsigned char *bytes;
    size_t n_bytes;
} psd_asset_t;

/* server/status/dashboard/dashboard.js behind Debian's dygraphs, and dashboard.css behind its style. */
extern const psd_asset_t psd_asset_js, psd_asset_css;
