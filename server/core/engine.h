/* engine.h - the state machine of one shard: sessions of workers, pushes parked until their round closes, the applied
 * table that makes every push count exactly once, the coordinator's log carried out in order, steps and answers.
 *
 * Pure: an event goes in (a message, a tick, work done), actions come out. Peers' probes and the log's numbers repair any loss,
 * repetition or reordering of messages; nothing here waits or retries except through the tick. One thread at a time. */
#pragma once

#include "common/optim/aggregate.h"
#include "common/optim/groups.h"
#include "common/optim/schedule.h"
#include "proto/actions.h"
#include "proto/measured.h"
#include "server/core/mode.h"
#include "server/core/saver.h"
#include "server/core/shard.h"

typedef struct psd_engine psd_engine_t;

typedef struct psd_engine_config {
    const char *job;              /* its name; copied */
    const char *settings;         /* what all servers of a job must agree on, as text; copied */
    const char *endpoint;         /* where workers reach this server; copied */
    int wanted_index;             /* index asked of the coordinator; -1: any */
    uint64_t nonce;               /* distinguishes this start of the process from others; its lower 16 bits count its hellos */
    psd_groups_t groups;          /* the optimizer, and the tensors with their own settings */
    psd_schedule_t schedule;      /* of the learning rate; no kind: constant */
    psd_reduce_t reduce;          /* how a round's gradients are combined */
    uint32_t accumulate;          /* rounds that make one step together, see psd_coordinator_config_t; 0: each makes its own */
    psd_clip_t clip;              /* the bounds of the summed gradient */
    psd_codings_t codings;        /* codings of received gradients and of sent weights */
    const psd_mode_t *mode;       /* bsp, asp */
    const psd_lr_rule_t *lr_rule; /* asp */
    bool saves_residuals;         /* checkpoints hold what workers keep of their gradients */
    uint64_t max_staleness;       /* asp: older pushes are dropped; 0: none is too old */
    uint64_t max_skipped;         /* as sync.max_skipped; 0: no bound */
    uint64_t look_every;          /* steps from one look at the tensors to the next (health.h); 0: there are none */
    const char *first;            /* where server 0 is, for the log; borrowed, may change; NULL in server 0 */
    uint64_t lease_ms;            /* silence after which server 0 counts as lost; 0: never */
    uint64_t patience_ms;         /* end when it has been silent for this long; 0: never */
    psd_buf_t *(*new_weights)(void *arg, size_t n_bytes); /* where weights lie, see psd_shard_use; NULL: anywhere */
    void *new_weights_arg;
    char *(*print_rule)(const psd_rule_t *rule, char text[PSD_RULE_TEXT]); /* psd_rule_print, for the log */
    uint32_t fold_at;   /* pushes whose turn has come that are added up together before a round is decided, see forecast.h; 0:
                           none are */
    uint32_t fold_from; /* least contributors of a round with which they are */
    bool goes_ahead;    /* parts may be stepped before their round is decided, see ahead.h */
} psd_engine_config_t;

enum { PSD_STALENESS_BUCKETS = 13 }; /* <= 0, 1, 2, 4, ... 1024, more: those of the metric */

/* Counters of this process, for metrics; they only rise. For the progress of the job, see psd_engine_version, _clock and
 * _samples. */
typedef struct psd_engine_stats {
    uint64_t steps;                    /* committed */
    uint64_t rounds;                   /* closed, with or without a step */
    uint64_t pushes;                   /* worker-clocks taken in whole */
    uint64_t folded;                   /* of these, added up before their round was decided */
    uint64_t ahead;                    /* parts stepped before their round was decided */
    uint64_t ahead_in_vain;            /* of those, in vain, because the round turned out otherwise */
    uint64_t asked_again;              /* of those, requested again, because the round turned out otherwise than expected */
    uint64_t messages;                 /* of pushes, accepted: one per part */
    uint64_t samples;                  /* behind the steps */
    uint64_t pulls_fast, pulls_slow;   /* parts sent */
    uint64_t rejected[PSD_N_REFUSALS]; /* messages refused or ignored, by reason */
    uint64_t staleness[PSD_STALENESS_BUCKETS];
    uint64_t staleness_sum, staleness_max;
    uint64_t syncs;           /* Lookahead syncs */
    uint64_t residual_resets; /* members that joined a running job, whose residuals began at 0 */
    double loss;              /* of the last step: weighted mean over its contributors; gauge */
    double lr;                /* of the last step, or of the next one before the first step since the start or a restore; gauge */
    double grad_norm2;        /* of the last step: sum over contributors' own squares; gauge */
    double clip_scale;        /* of the last step: the factor by which the gradient was shortened; 1: not shortened; gauge */
} psd_engine_stats_t;

/* A shard that will join a job. NULL, with `err` set, when memory runs out. */
psd_engine_t *psd_engine_new(const psd_engine_config_t *config, psd_err_t *err);
void psd_engine_destroy(psd_engine_t **self_p);

/* A well-formed message from `from` (proto/message.h checked it); `payload` is NULL when empty, borrowed. */
void psd_engine_message(psd_engine_t *self, uint64_t now_ms, psd_peer_t from, const psd_msg_t *msg, psd_buf_t *payload,
                        psd_actions_t *out);

/* A driver that takes gradients out of its peers' memory may add them up on the way, if their round is expected to be their mean:
 * the place of this push, not yet delivered, in that mean. False: it stands alone, or another has come alone. Those that are added
 * up are delivered as joint gradients (proto/measured.h), each as its own sender's push. */
bool psd_engine_term(const psd_engine_t *self, psd_peer_t from, const psd_msg_t *msg, psd_term_t *out);

/* Whether it has a handler for this kind: for those that proto/message.h sends to a shard, and no others. */
bool psd_engine_takes(psd_kind_t kind);

/* Time passes; call about every 100 ms. */
void psd_engine_tick(psd_engine_t *self, uint64_t now_ms, psd_actions_t *out);

/* Work that a PSD_ACT_WORK handed out has run (psd_work_run). */
void psd_engine_worked(psd_engine_t *self, uint64_t now_ms, psd_work_t *work, psd_actions_t *out);

/* A PSD_ACT_SAVE_BEGIN has made the file; a PSD_ACT_SAVE_PART has been written; a PSD_ACT_SAVE_END is durable (`failure` NULL), or
 * saving has failed at any point, and `failure` says why (the file is gone, the engine continues). */
void psd_engine_save_begun(psd_engine_t *self, uint64_t now_ms, psd_actions_t *out);
void psd_engine_part_saved(psd_engine_t *self, uint64_t now_ms, uint32_t part, psd_actions_t *out);
void psd_engine_saved(psd_engine_t *self, uint64_t now_ms, const char *failure, psd_actions_t *out);

/* A PSD_ACT_SAVE_RESIDUAL has been written. For a failure, call psd_engine_saved. */
void psd_engine_residual_saved(psd_engine_t *self, uint64_t now_ms, psd_actions_t *out);

/* Answer to PSD_ACT_LOAD_RESIDUAL: the worker's residual, one buffer for each of the shard's parts, which the engine takes over.
 * NULL: it cannot be read, and `failure` says why. */
void psd_engine_residual_loaded(psd_engine_t *self, uint64_t now_ms, uint32_t worker, psd_buf_t **part, const char *failure,
                                psd_actions_t *out);

/* Answer to PSD_ACT_RESTORE, in two halves. First the model, after which psd_engine_shard is the shard whose chunks are to be
 * filled (psd_shard_state, psd_shard_filled); then the outcome: the facts of that checkpoint, or, in `failure`, the reason why it
 * cannot be loaded. */
int psd_engine_restore(psd_engine_t *self, const psd_tensor_list_t *model, psd_err_t *err);
void psd_engine_restored(psd_engine_t *self, uint64_t now_ms, const char *failure, const psd_save_point_t *point,
                         psd_actions_t *out);

/* What the checkpoint being written must contain besides the chunks: from PSD_ACT_SAVE_BEGIN on; borrowed until the next. */
const psd_save_point_t *psd_engine_point(const psd_engine_t *self);
const psd_tensor_list_t *psd_engine_model(const psd_engine_t *self); /* n = 0 before it is known */

/* Note a message that was refused before it reached the engine. */
void psd_engine_count_refusal(psd_engine_t *self, psd_refusal_t reason);

/* -- facts for status, tests and the simulator; borrowed, valid until the next event */
const psd_engine_stats_t *psd_engine_stats(const psd_engine_t *self);
uint32_t psd_engine_index(const psd_engine_t *self);           /* of this shard; 0 before it is welcomed */
uint64_t psd_engine_first_silent_ms(const psd_engine_t *self); /* how long server 0 has been silent; 0: it counts as present */
const char *psd_engine_first(const psd_engine_t *self);        /* where server 0 is; "" in server 0 */

/* What server 0 last said of the job, to a server other than itself. */
typedef struct psd_engine_word {
    bool known;
    uint32_t state;             /* psd_job_state_t */
    bool ready;                 /* everybody whom rounds need in order to close is present */
    char missing[PSD_MAX_TEXT]; /* the missing ones, as clauses with "; " between them */
} psd_engine_word_t;
const psd_engine_word_t *psd_engine_word(const psd_engine_t *self);

const char *psd_engine_told(const psd_engine_t *self); /* why server 0 has no place for this one yet; "" */
bool psd_engine_was_ready(const psd_engine_t *self);   /* it has been, in this run of the job or in one before */
bool psd_engine_is_ready(const psd_engine_t *self);    /* welcomed by the coordinator */
uint64_t psd_engine_run(const psd_engine_t *self);     /* of the job, as every message says it; 0 before it is welcomed */
uint64_t psd_engine_epoch(const psd_engine_t *self);   /* which life of this server, by the coordinator's count */
uint64_t psd_engine_version(const psd_engine_t *self);
uint64_t psd_engine_samples(const psd_engine_t *self); /* behind those steps */
uint64_t psd_engine_clock(const psd_engine_t *self);   /* closed rounds (bsp) */
uint64_t psd_engine_sync_epoch(const psd_engine_t *self);
uint64_t psd_engine_elements(const psd_engine_t *self);        /* parameters held */
const psd_shard_t *psd_engine_shard(const psd_engine_t *self); /* NULL before the model is known */

/* The g-th parameter group, the rest last: its settings, the rate of its last step, and how much of the model is in it (0 before
 * the model is known). False past the last. */
typedef struct psd_engine_group {
    const psd_group_t *is;
    double lr;
    uint32_t n_tensors;
    uint64_t n_elements;
} psd_engine_group_t;
bool psd_engine_group(const psd_engine_t *self, uint32_t g, psd_engine_group_t *out);
const psd_partition_t *psd_engine_map(const psd_engine_t *self); /* all zero before */

/* What worker `id` is to this shard; false when it is no member. */
typedef struct psd_engine_worker {
    uint64_t incarnation, applied, pushes, samples;
    double loss;           /* of its last complete push */
    uint32_t held, parts;  /* parts of its open clock that have arrived, and their number in all */
    uint64_t staleness;    /* asp: of its last push */
    uint64_t last_push_ms; /* when its last complete push came */
} psd_engine_worker_t;
bool psd_engine_worker(const psd_engine_t *self, uint32_t id, psd_engine_worker_t *out);

/* Called, when set, with each applied contribution: the ledger that tests compare across shards. */
typedef void psd_ledger_fn(void *arg, uint32_t shard, uint64_t clock, uint32_t worker, uint64_t incarnation);
void psd_engine_set_ledger(psd_engine_t *self, psd_ledger_fn *fn, void *arg);

/* Why the job has failed by sync.max_skipped: the reason for the end of this server, however it then ends. NULL: it has not
 * failed. */
const char *psd_engine_hopeless(const psd_engine_t *self);
