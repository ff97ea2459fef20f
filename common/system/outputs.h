/* outputs.h - where the options have results written. Each place is tried before there is anything to write: a model that
 * has nowhere to go is known before it is trained, not after. */
#pragma once

#include "common/config/options.h"

/* The i-th option that names an output; PSD_N_OPTIONS past the end. */
psd_option_id_t psd_outputs_at(size_t i);

/* Whether what the option names can be written; an option that is not set is fine. Nothing stays that was not there.
 * PSD_EIO with the option, the path and the cause. A disk that is full now is no failure: it may have room by then. */
int psd_outputs_probe(const psd_options_t *options, psd_option_id_t id, psd_err_t *err);

/* All of them that the programs have (mask of psd_program_t): the first failure. */
int psd_outputs_probe_all(const psd_options_t *options, unsigned programs, psd_err_t *err);
