/* job.h - a job under `psdctl run` with checkpoints, disturbed by a test: it finds, kills and pauses the processes of the job, and
 * compares the final weights with those of a single process that made the same rounds undisturbed.
 *
 * A failure that the test cannot continue from ends it, as in cluster.h, with the output of psdctl run. */
#pragma once

#include "tests/support/cluster.h"

typedef struct job {
    cluster_t cluster;         /* its directory has ckpt/ and run/ */
    cluster_process_t process; /* psdctl run */
    unsigned n_servers, n_workers;
    char name[32];       /* reserved: a port that is free now may be taken by another test */
    unsigned accumulate; /* rounds of the undisturbed run that make one step together; 0: each makes a step */
} job_t;

/* One of its processes. */
typedef struct job_role {
    bool server;
    unsigned index; /* of its kind, from 0 */
} job_role_t;

/* The training settings, unless a flag of job_start overrides them. */
#define JOB_RULE "adam(lr=0.002)"
enum { JOB_BATCH = 240, JOB_SEED = 5, JOB_WAIT_MS = 300000, JOB_DONE_MS = 600000 };

/* Make the directory for a job with this many processes. */
void job_open(job_t *self, unsigned n_servers, unsigned n_workers);

/* Kill what still runs and remove the directory. */
void job_close(job_t *self);

/* Start or restart `psdctl run`; a later flag overrides an earlier one. */
void job_start(job_t *self, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Its process; 0 when it does not run at present. */
pid_t job_child(const job_t *self, job_role_t role);

/* The round of the newest whole checkpoint; -1 without any. */
long long job_checkpoint(const job_t *self);

/* The round of the newest checkpoint whose files have been begun. */
long long job_begun_checkpoint(const job_t *self);

/* Check that `psdctl checkpoint verify` finds every checkpoint whole. */
void job_expect_whole_checkpoints(job_t *self);

/* Check that the newest one is whole; others may be damaged. */
void job_expect_whole_checkpoint(job_t *self);

/* Wait for a checkpoint of this round or a later one. */
void job_await_checkpoint(job_t *self, long long clock);

/* The same, or for the end of the job; false when the job has ended. */
bool job_await_checkpoint_or_end(job_t *self, long long clock);

/* Wait for its end, and check its code. */
void job_expect_code(job_t *self, int code);

/* Check that the workers' final weights are those of the undisturbed rounds 1 to `rounds` by `rule`. */
void job_expect_weights(job_t *self, const char *rule, uint64_t rounds);

/* Check by their logs (which need --log-level=debug) that the shards have applied the right contributions: see ledger.h. */
void job_expect_ledger(job_t *self, uint64_t steps);

/* A server's log, of all its processes. The caller frees it. */
char *job_server_log(const job_t *self, unsigned server);

/* End the test with the output of psdctl run. */
_Noreturn void job_give_up(job_t *self, const char *format, ...) __attribute__((format(printf, 2, 3)));
