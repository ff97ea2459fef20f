/* isa.c - the table of one instruction set: its optimizers, its codecs, and the kernels around them. */
#include "common/codec/kernels/code.h"
#include "common/codec/kernels/feedback.h"
#include "common/optim/kernels/around.h"
#include "common/optim/kernels/kernel.h"

#define X(name) extern const psd_optimizer_t PSD_OPTIMIZER(name);
#include "common/optim/kernels/all.h"
#undef X

static const psd_optimizer_t *const optimizers[] = {
#define X(name) &PSD_OPTIMIZER(name),
#include "common/optim/kernels/all.h"
#undef X
    NULL
};

#define X(name) extern const psd_codec_t PSD_CODEC(name);
#include "common/codec/kernels/all.h"
#undef X

static const psd_codec_t *const codecs[] = {
#define X(name) &PSD_CODEC(name),
#include "common/codec/kernels/all.h"
#undef X
    NULL
};

extern const psd_isa_t PSD_PER_ISA(psd_isa);
const psd_isa_t PSD_PER_ISA(psd_isa) = {
    .name = PSD_TEXT(PSD_ISA),
    .optimizers = optimizers,
    .sync = PSD_PER_ISA(psd_lookahead_sync),
    .pullback = PSD_PER_ISA(psd_lookahead_pullback),
    .cautious_gradient = PSD_PER_ISA(psd_cautious_gradient),
    .cautious_step = PSD_PER_ISA(psd_cautious_step),
    .cautious_count = PSD_PER_ISA(psd_cautious_count),
    .accumulate = PSD_PER_ISA(psd_sum_accumulate),
    .finish = PSD_PER_ISA(psd_sum_finish),
    .clamp = PSD_PER_ISA(psd_sum_clamp),
    .scale = PSD_PER_ISA(psd_sum_scale),
    .pair = PSD_PER_ISA(psd_sum_pair),
    .squares = PSD_PER_ISA(psd_sum_squares),
    .copied = PSD_PER_ISA(psd_sum_copied),
    .taken = PSD_PER_ISA(psd_sum_taken),
    .distance = PSD_PER_ISA(psd_sum_distance),
    .zeros = PSD_PER_ISA(psd_sum_zeros),
    .reach = PSD_PER_ISA(psd_sum_reach),
    .codecs = codecs,
    .feedback_is_finite = PSD_PER_ISA(psd_feedback_is_finite),
    .feedback_add = PSD_PER_ISA(psd_feedback_add),
    .feedback_take = PSD_PER_ISA(psd_feedback_take),
};
