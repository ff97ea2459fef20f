/* coordinator.h - the state machine that decides once for the whole job: who is a member, which pushes make a round,
 * when the job is finished. It lives in server 0 and speaks to every shard, its own included, through a numbered log
 * of decisions; each shard carries the log out in order, so all shards close every round with the same contributors.
 *
 * Pure, like the engine: events in, actions out. One thread at a time. */
#pragma once

#include "common/optim/clip.h"
#include "common/optim/groups.h"
#include "server/core/absent.h"
#include "server/core/health.h"
#include "server/core/membership.h"
#include "server/core/mode.h"
#include "server/core/servers.h"

typedef struct psd_coordinator psd_coordinator_t;

/* Once workers_min have registered, the job waits for workers_want only until this much time has passed since the newest worker
 * came. */
enum { PSD_WANT_MS = 5000 };

typedef struct psd_coordinator_config {
    const char *job;                    /* name; copied */
    uint64_t job_id;                    /* of this run, not 0; every message carries it */
    const psd_job_settings_t *settings; /* told to the workers; all servers must have the same text; copied */
    uint32_t n_servers;                 /* shards of the job, 1 .. PSD_MAX_SERVERS */
    uint32_t workers_min;               /* below this many members no round closes; at least 1 */
    uint32_t workers_want;              /* workers that must have registered before training starts */
    bool drops_lost;           /* lost workers are not replaced: the job is finished when the remaining ones have done their work */
    uint64_t lease_ms;         /* silence after which a worker is given up */
    uint64_t round_timeout_ms; /* how long the open round waits for late pushes; 0: without limit */
    uint64_t start_timeout_ms; /* workers_want are waited for at most half as long, see PSD_WANT_MS; 0: no bound */
    uint64_t patience_ms;      /* end the job when a process that it needs has been missing for this long; 0: never */
    const psd_mode_t *mode;
    psd_groups_t groups;        /* the optimizer, and the tensors with their own settings */
    psd_clip_t clip;            /* the bounds of the summed gradient */
    bool needs_rows;            /* the schedule counts epochs: workers must say how many rows an epoch has */
    double lr;                  /* learning rate, until a SETTING changes it */
    bool checkpoints;           /* the servers can save: there is a directory */
    uint64_t save_every_rounds; /* rounds from one checkpoint to the next; 0: not by rounds */
    uint64_t save_every_ms;     /* and time; 0: not by time */
    const uint64_t *points;     /* clocks of the checkpoints that are there, newest first; copied */
    size_t n_points;
    uint32_t foretell_from;         /* least members of a round that is foretold, so that shards may begin its step early
                                       (forecast.h); 0: none is */
    const psd_tensor_list_t *model; /* of those checkpoints; copied; NULL without any */
    /* Rounds with a step's worth of gradients that make one step together; one that is skipped is none of them. 0, 1: each makes
     * its own. */
    uint32_t accumulate;
    uint64_t quarantine_after; /* give up a worker after this many pushes in a row with Inf or NaN; 0: never */
} psd_coordinator_config_t;

psd_coordinator_t *psd_coordinator_new(const psd_coordinator_config_t *config, psd_err_t *err);
void psd_coordinator_destroy(psd_coordinator_t **self_p);

/* Whether it has a handler for this kind: true for the kinds that proto/message.h sends to the coordinator, except operators'
 * requests, which go to psd_admin_message. */
bool psd_coordinator_takes(psd_kind_t kind);

/* A well-formed message of a worker or a shard. */
void psd_coordinator_message(psd_coordinator_t *self, uint64_t now_ms, psd_peer_t from, const psd_msg_t *msg, psd_buf_t *payload,
                             psd_actions_t *out);

/* A worker has sent something to this server's shard: any message is a sign of life. */
void psd_coordinator_heard(psd_coordinator_t *self, uint64_t now_ms, psd_peer_t from, const psd_msg_t *msg);

/* The manifest that PSD_ACT_COMMIT asked for is durable, or could not be written. */
void psd_coordinator_committed(psd_coordinator_t *self, uint64_t now_ms, uint64_t clock, const char *failure, psd_actions_t *out);

/* Save soon (an operator's request). */
void psd_coordinator_request_save(psd_coordinator_t *self);

/* End the job unfinished: save what there is, tell the shards, then PSD_ACT_FINISH with PSD_ESTOPPED. */
void psd_coordinator_stop(psd_coordinator_t *self, uint64_t now_ms, psd_actions_t *out);

/* Time passes; call about every 100 ms. A gap of more than PSD_ABSENCE_MS between two events is taken for an absence of this
 * process, by which every lease is extended. */
void psd_coordinator_tick(psd_coordinator_t *self, uint64_t now_ms, psd_actions_t *out);

/* X(NAME, word for status) */
#define PSD_JOB_STATES(X)                                                                                                          \
    X(GATHERING, "waiting") /* for servers or for the first workers */                                                             \
    X(TRAINING, "training")                                                                                                        \
    X(DEGRADED, "degraded") /* a server is lost, or fewer than workers.min are here: rounds wait */                                \
    X(PAUSED, "paused")     /* an operator has asked for it: rounds wait */                                                        \
    X(FINISHED, "finished") /* every worker has left with its work done */

typedef enum psd_job_state {
#define X(name, word) PSD_JOB_##name,
    PSD_JOB_STATES(X)
#undef X
} psd_job_state_t;

/* -- requests of an operator (server/core/admin.h reads them from messages) */

/* Stop closing rounds, or continue. Returns whether the job was paused before. */
bool psd_coordinator_pause(psd_coordinator_t *self, uint64_t now_ms, bool paused, psd_actions_t *out);

/* Set `what` ("optimizer.lr") to `value` from the next decision on; `who` for the log. PSD_ECONFIG. */
int psd_coordinator_set(psd_coordinator_t *self, uint64_t now_ms, const char *what, double value, const char *who,
                        psd_actions_t *out, psd_err_t *err);

/* Ask a worker, by its id or name, to leave after its open round; NULL if there is no such worker. */
const psd_worker_row_t *psd_coordinator_drain(psd_coordinator_t *self, const char *word, psd_actions_t *out);

/* The outcome of a checkpoint that was requested at `since_ms`; `*clock`: that of the newest. */
typedef enum psd_save_outcome { PSD_SAVE_PENDING, PSD_SAVE_SAFE, PSD_SAVE_FAILED } psd_save_outcome_t;
psd_save_outcome_t psd_coordinator_save_outcome(psd_coordinator_t *self, uint64_t since_ms, uint64_t *clock);

/* Answer a request, with the marks of this run; a REFUSED gets its reason, and is counted. */
void psd_coordinator_answer(psd_coordinator_t *self, psd_peer_t to, psd_kind_t kind, uint64_t seq, psd_refusal_t reason,
                            const char *text, psd_actions_t *out);

const char *psd_coordinator_job(const psd_coordinator_t *self);
psd_job_state_t psd_coordinator_state(const psd_coordinator_t *self);
bool psd_coordinator_is_ending(const psd_coordinator_t *self);
bool psd_coordinator_can_save(const psd_coordinator_t *self);   /* there is a directory */
bool psd_coordinator_has_quorum(const psd_coordinator_t *self); /* rounds may close with the workers that are present */

/* How far the job is, as reported by the shards: "round 17". */
void psd_coordinator_describe_position(const psd_coordinator_t *self, char *text, size_t n);

/* -- facts */

enum { PSD_MAX_REPORTS = 10 /* two are how far the trainer has come */ };

/* What the status page says of the job; texts are written into the struct. */
typedef struct psd_coordinator_facts {
    psd_job_state_t state;
    bool stopped;            /* FINISHED because it was stopped, with work left */
    uint64_t view_id, clock; /* closed rounds */
    uint64_t skipped;        /* rounds that closed without a step */
    uint32_t gathered;       /* rounds whose gradients wait for those of others to make a step with them */
    double lr;               /* of the next step */
    uint64_t runs;           /* how often the job was started or resumed: 1 plus the restarts of servers */
    bool has_point, saving, save_failing;
    uint64_t point_clock, point_ms;          /* the newest checkpoint: its round, and when it was committed (0: before) */
    uint64_t save_ms;                        /* how long the newest took */
    uint32_t n_members, n_shards;            /* shards that have joined */
    uint32_t n_finished;                     /* workers whose work is done, present or not */
    bool quorum;                             /* enough workers are present for rounds to close, or none are needed any more */
    bool lacks_first_point;                  /* the job stands still because the first checkpoint cannot be made */
    uint32_t n_lost_servers, n_lost_workers; /* silent for longer than the lease, and not replaced */
    uint64_t workers_lost;                   /* how often a worker was given up; only rises */
    uint64_t workers_quarantined;            /* how often for Inf or NaN in its gradients */
    uint32_t workers_min, workers_want;
    uint32_t n_absent; /* processes that the job waits for, one clause each; more are dropped */
    char absent[PSD_MAX_ABSENT][PSD_ABSENT_TEXT];
    char waiting_for[PSD_MAX_TEXT]; /* "workers 1, 3 (round 17)", "" if the job waits for nothing */
    struct {
        char name[64];
        double value;
    } report[PSD_MAX_REPORTS]; /* the newest number of each name that workers reported; more names are dropped */
    uint32_t n_reports;
    uint64_t rejected[PSD_N_REFUSALS]; /* messages refused or ignored, by reason; only rise */
} psd_coordinator_facts_t;

/* A server of the job, as it last reported; `endpoint` is borrowed. */
typedef struct psd_server_facts {
    bool joined;
    bool lost; /* silent for longer than its lease */
    const char *endpoint;
    uint64_t clock, version; /* rounds closed, steps made there */
    uint64_t heard_ms;       /* when it last said anything */
} psd_server_facts_t;

/* Whether this worker, of psd_coordinator_members, was given up for its silence, and its place is still free. */
bool psd_coordinator_worker_is_lost(const psd_coordinator_t *self, uint32_t worker);

/* False when the job has no server of that index. */
bool psd_coordinator_server(const psd_coordinator_t *self, uint32_t index, psd_server_facts_t *out);

void psd_coordinator_facts(const psd_coordinator_t *self, psd_coordinator_facts_t *out);
const char *psd_job_state_name(psd_job_state_t state);

/* How the tensors are trained, in the order of the model (psd_engine_model names them); borrowed, valid until the next event. */
const psd_health_t *psd_coordinator_health(const psd_coordinator_t *self);

/* The table of workers; borrowed, valid until the next event. */
const psd_membership_t *psd_coordinator_members(const psd_coordinator_t *self);
