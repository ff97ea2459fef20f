/* settings.h - what the runs of a comparison have in common, kept in its directory: a directory is for one job, and for one
 * psdctl at a time. */
#pragma once

#include "common/config/options.h"

/* Note the settings of `options` in DIRECTORY/settings.json, or compare them with those that are there; and have the
 * directory until `*lock` is closed. PSD_ECONFIG when they differ, with what does; PSD_EUNAVAILABLE while another
 * process has it; PSD_EDATA, PSD_EIO. */
int psd_settings_hold(const psd_options_t *options, const char *directory, int *lock, psd_err_t *err);
