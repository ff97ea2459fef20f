/* feedback.h - the state that a worker keeps from exchange to exchange. With a lossy codec this is the residual of each chunk: the
 * part of the gradient that the codec lost, which is added to the next one (error feedback). With a rule by vote it is the momentum
 * by which the worker votes (dlion); codecs keep votes exactly, so these leave no residual. A part is made and encoded once in an
 * exchange, when it is first requested; requested again, it has the same bytes.
 *
 * If checkpoints hold this state, its value after the last exchange is also kept until the open one is over, because a server may
 * request either. The requested value is set aside, so that exchanges continue meanwhile. Owned by the session; pure. */
#pragma once

#include "common/optim/clip.h"
#include "common/optim/groups.h"
#include "proto/coded.h"

typedef struct psd_feedback psd_feedback_t;

/* A part of the open exchange, as it is pushed. */
typedef struct psd_feedback_part {
    psd_buf_t *payload; /* borrowed; NULL: no chunk of it has a gradient */
    bool has_bitmap;    /* some have none, and it ends in the bitmap of those that have (proto/coded.h) */
} psd_feedback_part_t;

/* Whether workers keep any state with this rule and this coding, so that the functions below are of use. */
bool psd_feedback_is_needed(const psd_rule_t *rule, const psd_coding_t *coding);

/* State for the parts of `map`, which is borrowed; all 0 at first. With `is_saved` it can be set aside. NULL, with `err` set, when
 * memory runs out. */
psd_feedback_t *psd_feedback_new(const psd_rule_t *rule, const psd_coding_t *coding, const psd_partition_t *map, bool is_saved,
                                 psd_err_t *err);

/* Free it with its state, and set `*self_p` to NULL; NULL is fine. Payloads on their way stay valid. */
void psd_feedback_destroy(psd_feedback_t **self_p);

/* Open an exchange with these gradients, gradient[i] of tensor i (NULL: it has none), borrowed until the exchange is closed. False
 * when an element is Inf or NaN, or becomes so when its residual is added: then zeros are pushed, and the state does not change. */
bool psd_feedback_open(psd_feedback_t *self, const float *const *gradient);

/* Part `p` of server `s`. Aborts when memory runs out. */
psd_feedback_part_t psd_feedback_part(psd_feedback_t *self, uint32_t s, uint32_t p);

/* The sum of squares of the whole push as the servers will decode it, each element bounded by the clip's value: chunk after chunk,
 * in the order of the model. Encodes every part. */
double psd_feedback_squares(psd_feedback_t *self, const psd_clip_t *clip, const psd_groups_t *groups, const uint8_t *group_of);

/* The exchange is over: forget its bytes. */
void psd_feedback_close(psd_feedback_t *self);

/* -- for checkpoints; `s` is a server */

/* Set aside the state for the parts of `s` as it is after the encoded parts of the open exchange or, unless `with_open`, after the
 * last exchange. Aborts when memory runs out. */
void psd_feedback_set_aside(psd_feedback_t *self, uint32_t s, bool with_open);

/* The elements of part `p` of the state set aside; borrowed. NULL: nothing is set aside. */
psd_buf_t *psd_feedback_aside(const psd_feedback_t *self, uint32_t s, uint32_t p);

/* Forget the state set aside for `s`. */
void psd_feedback_drop_aside(psd_feedback_t *self, uint32_t s);

/* Between exchanges: set the state of part `p` to these elements from a checkpoint; or set all of it to 0. */
void psd_feedback_take(psd_feedback_t *self, uint32_t s, uint32_t p, const float *kept);
void psd_feedback_reset(psd_feedback_t *self);
