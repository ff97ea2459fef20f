/* job.h - a job under `psdctl run` with checkpoints, disturbed by a test: the processes that it starts are
 * found, killed and paused; its weights at the end are compared with those of one process that did the same
 * rounds in peace.
 *
 * What cannot be gone on with ends the test, as in cluster.h, with what psdctl run said. */
#pragma once

#include "tests/support/cluster.h"

typedef struct job {
    cluster_t cluster;         /* its directory has ckpt/ and run/ */
    cluster_process_t process; /* psdctl run */
    unsigned n_servers, n_workers;
    char name[32]; /* its own: a port that is free for a moment may be another test's the next */
} job_t;

/* One of its processes. */
typedef struct job_role {
    bool server;
    unsigned index; /* of its kind, from 0 */
} job_role_t;

/* What they train, unless a flag of job_start says otherwise. */
#define JOB_RULE "adam(lr=0.002)"
enum { JOB_BATCH = 240, JOB_SEED = 5, JOB_WAIT_MS = 300000, JOB_DONE_MS = 600000 };

/* Make the directory for a job of so many processes. */
void job_open(job_t *self, unsigned n_servers, unsigned n_workers);

/* Kill what still runs and remove the directory. */
void job_close(job_t *self);

/* Start `psdctl run`, again or for the first time; a later flag goes before an earlier one. */
void job_start(job_t *self, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Its process, 0 when it is not there just now. */
pid_t job_child(const job_t *self, job_role_t role);

/* The round of the newest whole checkpoint; -1 without any. */
long long job_checkpoint(const job_t *self);

/* The round of the newest one whose files have been begun. */
long long job_begun_checkpoint(const job_t *self);

/* `psdctl checkpoint verify` finds every checkpoint whole. */
void job_expect_whole_checkpoints(job_t *self);

/* The newest one is; others may have been spoilt. */
void job_expect_whole_checkpoint(job_t *self);

/* Wait for a checkpoint of this round or a later one. */
void job_await_checkpoint(job_t *self, long long clock);

/* The same, but the end of the job will do as well; false when that has come. */
bool job_await_checkpoint_or_end(job_t *self, long long clock);

/* Wait for its end, which must have this code. */
void job_expect_code(job_t *self, int code);

/* The workers' weights at the end are those of the undisturbed rounds 1 to `steps` by `rule`. */
void job_expect_weights(job_t *self, const char *rule, uint64_t steps);

/* By their logs (which need --log-level=debug) the shards have applied what they should: see ledger.h. */
void job_expect_ledger(job_t *self, uint64_t steps);

/* A server's log: what all of its lives said. The caller frees it. */
char *job_server_log(const job_t *self, unsigned server);

/* End the test with what psdctl run said. */
_Noreturn void job_give_up(job_t *self, const char *format, ...) __attribute__((format(printf, 2, 3)));
