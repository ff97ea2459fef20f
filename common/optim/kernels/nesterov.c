/* nesterov.c - sgd with a velocity that looks ahead by default (Nesterov 1983; Sutskever et al. 2013). */
#include "common/optim/kernels/sgd.h"

const psd_optimizer_t PSD_OPTIMIZER(nesterov) = PSD_SGD_ROW(
    "nesterov", "SGD with Nesterov's momentum", "g += wd*w; buf = momentum*buf + g (first: buf = g); w -= lr*(g + momentum*buf)",
    "Nesterov 1983; Sutskever et al. 2013",
    "As momentum, and a little steadier at high momentum; try it wherever momentum is good.", 0.9, 1);
