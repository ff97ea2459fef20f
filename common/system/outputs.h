/* outputs.h - the output paths in the options. Each is checked before training, so that an unwritable path does not cost a trained
 * model. */
#pragma once

#include "common/config/options.h"

/* The i-th option that names an output; PSD_N_OPTIONS past the end. */
psd_option_id_t psd_outputs_at(size_t i);

/* Check that the option's path can be written; an unset option is fine. Leaves no new files behind. PSD_EIO with the option, the
 * path and the cause. A full disk is not an error, because it may have room later. */
int psd_outputs_probe(const psd_options_t *options, psd_option_id_t id, psd_err_t *err);

/* All of them that the programs have (mask of psd_program_t): the first failure. */
int psd_outputs_probe_all(const psd_options_t *options, unsigned programs, psd_err_t *err);
