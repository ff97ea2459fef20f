/* settings.h - the settings shared by all runs of a comparison, kept in its directory. A directory is for one job, and for one
 * psdctl at a time. */
#pragma once

#include "deploy/psdctl/run/place.h"

/* Choose the directory as psd_place_choose does, make it with runs/ in it, write the settings of `options` to its settings.json, or
 * compare them with those in it, and reserve the directory (psd_place_reserve) until `*lock` is closed.
 * PSD_ECONFIG when no option would end a run, when the directory is another verb's, when settings differ (the sentence shows the
 * first), and while another psdctl works in it; PSD_EDATA, PSD_EIO. */
int psd_settings_hold(const psd_options_t *options, const char *verb, char directory[PSD_PLACE_DIRECTORY], int *lock,
                      psd_err_t *err);

/* The value `text` of an option in the form in which it means the same in every directory: its path, if it has one, is absolute.
 * The caller frees it; NULL when memory runs out. */
char *psd_settings_from_anywhere(const psd_option_t *row, const char *text);
