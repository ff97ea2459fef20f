/* adamw.c - adam with weight decay decoupled from the gradient (Loshchilov, Hutter 2019, arXiv 1711.05101). */
#include "common/optim/kernels/adam.h"

const psd_optimizer_t PSD_OPTIMIZER(adamw) =
    PSD_ADAM_ROW("adamw", "adam with decoupled weight decay",
                 "w *= 1-lr*wd; m = b1*m + (1-b1)*g; v = b2*v + (1-b2)*g^2; w -= "
                 "lr/(1-b1^t) * m/(sqrt(v)/sqrt(1-b2^t)+eps)",
                 "Loshchilov, Hutter 2019, arXiv 1711.05101",
                 "Like adam, for use when you regularise with weight decay: transformers and most modern training recipes.", 0.01,
                 psd_adamw_prepare, PSD_DECAY_WEIGHTS);
