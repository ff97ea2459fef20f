/* export.h - `psdctl export`: the weights of a checkpoint, and what its optimizer keeps, as files that torch
 * and numpy open. */
#pragma once

/* The verb: export [options] DIR [CLOCK]. Writes model.safetensors, the user's tensors under their names;
 * with
 * --optimizer also optimizer_state.safetensors, whose arrays are called state/<tensor>/<field> by torch's
 * field names, and optimizer_param_groups.json, torch's param_groups. Without CLOCK it is the newest
 * checkpoint that is whole. Returns the exit code: 64 for wrong usage, 65 when what was asked for is damaged,
 * 66 when there is none, 74 when a file is there already or cannot be written. */
int psd_ctl_export(int argc, char **argv);
