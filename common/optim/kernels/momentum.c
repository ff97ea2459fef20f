/* momentum.c - sgd with a velocity by default (Polyak 1964). */
#include "common/optim/kernels/sgd.h"

const psd_optimizer_t
    PSD_OPTIMIZER(momentum) = PSD_SGD_ROW("momentum", "SGD with heavy-ball momentum",
                                          "g += wd*w; buf = momentum*buf + (1-dampening)*g (first: buf = g); w -= lr*buf",
                                          "Polyak 1964",
                                          "For convolutional networks and wherever sgd works but is slow: it averages noise out of "
                                          "the direction. Use about a tenth of the learning rate that suits sgd.",
                                          0.9, 0);
