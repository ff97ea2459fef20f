/* sgd.c - stochastic gradient descent (Robbins, Monro 1951), with a velocity (Polyak 1964) that may look ahead (Nesterov 1983 as
 * in Sutskever et al. 2013), in torch's form: the velocity holds no learning rate.
 *   g <- g + wd w
 *   buf <- g at the first update, then mu buf + (1 - dampening) g
 *   d = g without momentum, g + mu buf with nesterov, else buf
 *   w <- w - lr d */
#include "common/optim/kernels/sgd.h"

enum { LR, MOMENTUM, DAMPENING, NESTEROV, WEIGHT_DECAY };
enum { C_LR, C_MU, C_GAIN, C_DECAY, C_NESTEROV, C_FIRST };

unsigned PSD_PER_ISA(psd_sgd_slots_used)(const double *hyper) { return hyper[MOMENTUM] > 0; }

int PSD_PER_ISA(psd_sgd_check)(const double *hyper, psd_err_t *err)
{
    if (hyper[NESTEROV] > 0 && (hyper[MOMENTUM] <= 0 || hyper[DAMPENING] > 0))
        return psd_err_set(err, PSD_ECONFIG, "nesterov=1 needs momentum above 0 and dampening=0");
    return PSD_OK;
}

void PSD_PER_ISA(psd_sgd_prepare)(const double *hyper, double lr, uint64_t t, double *scalar, float *coef)
{
    (void)scalar;
    coef[C_LR] = (float)lr;
    coef[C_MU] = (float)hyper[MOMENTUM];
    coef[C_GAIN] = (float)(1.0 - hyper[DAMPENING]);
    coef[C_DECAY] = (float)hyper[WEIGHT_DECAY];
    coef[C_NESTEROV] = (float)hyper[NESTEROV];
    coef[C_FIRST] = t == 1 ? 1.0f : 0.0f;
}

PSD_LOOP plain(const psd_step_t *s, bool decay)
{
    const float lr = s->coef[C_LR], wd = s->coef[C_DECAY];
    const float *restrict g = s->g;
    float *restrict w = s->w;

    PSD_VECTOR
    for (size_t i = 0; i < s->n; i++) {
        const float gi = decay ? g[i] + wd * w[i] : g[i];
        w[i] -= lr * gi;
    }
}

PSD_LOOP moving(const psd_step_t *s, bool decay, bool nesterov, bool first)
{
    const float lr = s->coef[C_LR], mu = s->coef[C_MU], gain = s->coef[C_GAIN], wd = s->coef[C_DECAY];
    const float *restrict g = s->g;
    float *restrict w = s->w, *restrict buf = s->slot[0];

    PSD_VECTOR
    for (size_t i = 0; i < s->n; i++) {
        const float gi = decay ? g[i] + wd * w[i] : g[i];
        const float velocity = first ? gi : mu * buf[i] + gain * gi;
        buf[i] = velocity;
        w[i] -= lr * (nesterov ? gi + mu * velocity : velocity);
    }
}

PSD_LOOP with_momentum(const psd_step_t *s, bool decay)
{
    const bool nesterov = s->coef[C_NESTEROV] > 0, first = s->coef[C_FIRST] > 0;
    if (first && nesterov)
        moving(s, decay, true, true);
    else if (first)
        moving(s, decay, false, true);
    else if (nesterov)
        moving(s, decay, true, false);
    else
        moving(s, decay, false, false);
}

void PSD_PER_ISA(psd_sgd_step)(const psd_step_t *s)
{
    const bool decay = s->coef[C_DECAY] > 0;
    if (!s->slot[0] && decay)
        plain(s, true);
    else if (!s->slot[0])
        plain(s, false);
    else if (decay)
        with_momentum(s, true);
    else
        with_momentum(s, false);
}

const psd_optimizer_t PSD_OPTIMIZER(sgd) = PSD_SGD_ROW("sgd", "stochastic gradient descent", "g += wd*w; w -= lr*g",
                                                       "Robbins, Monro 1951",
                                                       "The baseline: start here, and keep it where memory is short or the loss is "
                                                       "convex. Needs a tuned learning rate and usually a schedule.",
                                                       0, 0);
