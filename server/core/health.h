/* health.h - how each tensor is trained: the norms of its gradient and weights, what a step adds to them, and whether it is dead or
 * exploding. Shards measure some steps, the looks (common/optim/look.h), and report what each one did to their chunks. The chunks
 * of all shards are added in the order of the model, so in bsp the figures are the same for any number of servers. Measuring does
 * not change a step.
 *
 * A tensor is judged by several looks, so that a single batch does not decide. docs/monitoring.md describes the thresholds and what
 * to do. Owned by the coordinator; pure. */
#pragma once

#include "common/base/partition.h"
#include "common/base/server_set.h"
#include "common/optim/groups.h"
#include "common/optim/look.h"

/* X(NAME, word for status) */
#define PSD_HEALTH_STATES(X)                                                                                                       \
    X(UNSEEN, "unseen") /* no look yet */                                                                                          \
    X(OK, "ok")                                                                                                                    \
    X(FROZEN, "frozen")       /* its group is frozen: it is not trained */                                                         \
    X(ABSENT, "absent")       /* no worker sent a gradient of it in the newest look */                                             \
    X(DEAD, "dead")           /* all its gradients are 0 */                                                                        \
    X(STUCK, "stuck")         /* it has gradients, but its steps are too small to move it */                                       \
    X(EXPLODING, "exploding") /* steps are a large part of it again and again, or it has grown far too large */

typedef enum psd_health_state {
#define X(name, word) PSD_HEALTH_##name,
    PSD_HEALTH_STATES(X)
#undef X
        PSD_N_HEALTH_STATES
} psd_health_state_t;

/* The reason for a tensor's state, from which the sentence about it is made. */
typedef enum psd_health_sign {
    PSD_SIGN_NONE,
    PSD_SIGN_ZEROS,    /* dead: all gradients are 0 */
    PSD_SIGN_TINY,     /* stuck: the step is lost in rounding */
    PSD_SIGN_NOISE,    /* stuck: the same, because the gradients are negligible beside those of the model */
    PSD_SIGN_INFINITE, /* exploding: Inf or NaN in the weights */
    PSD_SIGN_OVERFLOW, /* exploding: gradients whose squares overflow a float */
    PSD_SIGN_GROWN,    /* exploding: the weights are many times as large as they began */
    PSD_SIGN_THROWN,   /* exploding: steps are a large part of the weights, again and again */
    PSD_N_SIGNS
} psd_health_sign_t;

enum {
    PSD_HEALTH_COLUMNS = 64, /* of the strip, over the whole run: when all are used, each two are merged */
    PSD_HEALTH_OPEN = 8,     /* looks that are being collected at once, at most: in asp, shards are at different steps */
    PSD_HEALTH_IN_ROW = 5,   /* looks with the same sign before a tensor is called dead, stuck or exploding */
    PSD_HEALTH_TEXT = 512,   /* bytes of a sentence, with its terminating zero */
    PSD_HEALTH_TOLD = 128,   /* tensors whose figures are sent to worker 0, at most */
    PSD_HEALTH_FIGURES = 5   /* of a tensor */
};

/* A tensor, as measured by the newest look in which it had a gradient. A figure that is not known yet is NaN. */
typedef struct psd_health_tensor {
    psd_health_state_t state;
    psd_health_sign_t sign;
    psd_health_state_t told; /* the state before the newest look */
    uint64_t n;              /* elements */
    uint8_t group;
    double gradient_norm; /* of the gradient that the rule got: the mean, clipped */
    double weight_norm;   /* before the step */
    /* The norm of what the step added, divided by weight_norm; or, if the weights are smaller than the model's were when training
     * began, by the norm that weights of that size would have. */
    double update_ratio;
    double zero_share;                  /* of gradients that are 0 */
    double reached_share;               /* of gradients cut off by clip.value, or, without it, too large to square */
    double rate;                        /* learning rate of the step */
    double most_rate;                   /* the greatest rate of its looks */
    double first_rms;                   /* root mean square of its weights at its first look */
    double growth;                      /* the present root mean square divided by first_rms, or by model_rms if that is more */
    uint64_t since;                     /* step of the look in which it entered this state */
    uint32_t n_zeros, n_tiny, n_thrown; /* newest consecutive looks that show this sign */
    char strip[PSD_HEALTH_COLUMNS];     /* a letter of PSD_HEALTH_LETTERS per column: the strongest of its looks */
} psd_health_tensor_t;

/* From weak to strong: no gradient; all gradients 0; update ratios: below 1e-6, then two letters for each power of ten, the last
 * from 1 up; Inf or NaN. */
#define PSD_HEALTH_LETTERS ".-0123456789abcd!"

/* A look of which some shards have sent their part. */
typedef struct psd_health_open {
    uint64_t step;         /* 0: unused */
    psd_server_set_t told; /* shards that have sent their part of it */
    double *term;          /* [chunk][term] */
} psd_health_open_t;

typedef struct psd_health {
    psd_groups_t groups;
    psd_clip_t clip;
    psd_partition_t map; /* of the model; no chunks before it is known */
    psd_health_open_t open[PSD_HEALTH_OPEN];
    uint32_t n_holders; /* shards that have chunks */
    double *term;       /* of all open looks */
    double *sum;        /* [tensor][term] */
    uint32_t n_tensors;
    psd_health_tensor_t *tensor;
    uint64_t looks, step;                   /* complete looks, and the step of the newest */
    uint32_t in_state[PSD_N_HEALTH_STATES]; /* tensors in each */
    double model_rms;                       /* root mean square of all weights at the first look */
    double gradient_rms;                    /* root mean square of all gradients at the newest look */
    uint32_t n_columns;                     /* used */
    uint32_t stride, in_last;               /* looks per column, and those in the newest one */
    uint64_t column[PSD_HEALTH_COLUMNS];    /* step of the first look of each */
} psd_health_t;

/* Whether step `step`, from 1, is looked at: the first, each `every` steps after it, and before those 2, 4, 8 and so on, because
 * most models that explode do so at once. `every` 0: no step is. */
bool psd_health_is_due(uint64_t every, uint64_t step);

/* For a job with these groups and these bounds. */
void psd_health_init(psd_health_t *self, const psd_groups_t *groups, const psd_clip_t *clip);

/* Forget all figures, because the model may be another one. Also frees all memory. */
void psd_health_clear(psd_health_t *self);

/* Set the model, unless it is known already. `group_of`: each tensor's group. PSD_ENOMEM. */
int psd_health_begin(psd_health_t *self, const psd_extent_t *tensors, const uint8_t *group_of, uint32_t n_tensors,
                     uint32_t n_servers);
bool psd_health_has_begun(const psd_health_t *self);

/* Take the `n` doubles that shard `shard` has sent for step `step`. Returns whether the look is complete now; then a state that
 * differs from `told` is new. A look that stays incomplete, because a message was lost, is dropped when a later one is complete, or
 * when PSD_HEALTH_OPEN later ones have begun. Other messages are ignored. */
bool psd_health_take(psd_health_t *self, uint32_t shard, uint64_t step, const double *terms, size_t n);

/* The figures of the first tensors of the model, at most PSD_HEALTH_TOLD, PSD_HEALTH_FIGURES doubles each, as HEALTH carries them
 * (proto/PROTOCOL.md). Returns the number of these tensors. */
uint32_t psd_health_figures(const psd_health_t *self, double out[PSD_HEALTH_TOLD * PSD_HEALTH_FIGURES]);

/* Whether a tensor in this state needs attention. */
bool psd_health_is_ill(psd_health_state_t state);

/* What is wrong with a tensor that needs attention, and what to do: clauses that follow its name and state. "" for other
 * tensors. */
void psd_health_describe(const psd_health_t *self, uint32_t tensor, char text[PSD_HEALTH_TEXT]);

/* The id of the log line for a tensor that has entered this state, if this or the previous state needs attention. */
const char *psd_health_event(psd_health_state_t state);

const char *psd_health_state_name(psd_health_state_t state);
