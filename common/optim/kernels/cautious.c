/* cautious.c - the mask around an update (Liang et al. 2024, arXiv 2411.16085): what an element's step and its gradient disagree on
 * is left out, and what remains of a tensor is enlarged by as much as was left out,
 *   agree_i = 1 where step and gradient lead the same way, else, and where one of them is 0, 0
 *   w_i <- keep w_i - step_i agree_i / max(mean(agree), caution_min)
 * The step is what the rule makes of weights 0 without decay, so that it is exact; the decay stays the gradient's (l2) or the
 * weights' (keep). Signs are compared, for products of faint numbers are 0 in float. */
#include "common/optim/kernels/around.h"

/* Whether weight 0 went to z along gradient g by going down it: 1 or 0. Without branches, which gcc would not vectorise. */
static inline uint32_t agrees(float z, float g) { return (uint32_t)(((z < 0.0f) & (g > 0.0f)) | ((z > 0.0f) & (g < 0.0f))); }

void PSD_PER_ISA(psd_cautious_gradient)(float *restrict out, const float *restrict g, const float *restrict w, float l2, size_t n)
{
    PSD_VECTOR
    for (size_t i = 0; i < n; i++)
        out[i] = g[i] + l2 * w[i];
}

void PSD_PER_ISA(psd_cautious_step)(float *restrict w, const float *restrict z, const float *restrict g, float keep, float factor,
                                    size_t n)
{
    PSD_VECTOR
    for (size_t i = 0; i < n; i++)
        w[i] = keep * w[i] + (agrees(z[i], g[i]) ? factor * z[i] : 0.0f);
}

size_t PSD_PER_ISA(psd_cautious_count)(const float *restrict z, const float *restrict g, size_t n)
{
    uint32_t count = 0; /* of at most a block's elements */
    PSD_VECTOR
    for (size_t i = 0; i < n; i++)
        count += agrees(z[i], g[i]);
    return count;
}
