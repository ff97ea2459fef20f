/* psd/worker.h - the library that trains against psd servers: connect, register tensors, exchange gradients for
 * weights, report numbers, leave.
 *
 * Words. A tensor is a named float32 array. An exchange pushes the gradient of one mini-batch and pulls the weights
 * that the servers make of it: one call, one ticket. The clock counts a worker's exchanges; in the synchronous mode
 * (bsp) it is the number of the round, the same for all workers.
 *
 * Threads. A handle belongs to one thread at a time; different handles are independent; each handle has one thread of the library's
 * own.
 *
 * Processes. A handle belongs to the process that connected. After a fork the child's calls that return a code return
 * PSD_W_EINVAL, its psd_worker_close leaves the parent's handle as it is, and it may make no other call.
 *
 * Memory. Arrays are borrowed: see each call.
 *
 * Errors. Calls return PSD_W_OK (0) or a negative PSD_W_E... code; psd_worker_error() then has the sentence. Nothing is
 * printed, no signal is touched, nothing aborts. */
#ifndef PSD_WORKER_H
#define PSD_WORKER_H

/* For #if: a program that needs 0.2 says PSD_VERSION_MAJOR > 0 || PSD_VERSION_MINOR >= 2. */
#define PSD_VERSION_MAJOR 0
#define PSD_VERSION_MINOR 1
#define PSD_VERSION_PATCH 0
#define PSD_VERSION       "0.1.0"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

typedef struct psd_worker psd_worker_t;

/* Return codes (their text: psd_strerror). */
enum psd_worker_status {
    PSD_W_OK = 0,
    PSD_W_EINVAL = -1,       /* an argument is wrong */
    PSD_W_ENOMEM = -2,       /* out of memory */
    PSD_W_EIO = -3,          /* a key or the cluster's file cannot be read */
    PSD_W_EDATA = -6,        /* the cluster's file is not one; optimizer state does not fit */
    PSD_W_ENOINPUT = -7,     /* a key file is missing */
    PSD_W_EUNAVAILABLE = -8, /* a server or workers that the job needs stayed away for join_timeout_ms */
    PSD_W_ECONFIG = -9,      /* keys are missing, or an address does not go with them */
    PSD_W_EREFUSED = -10,    /* a server refused: other job, protocol, shapes; the sentence names both sides */
    PSD_W_EFENCED = -11,     /* the servers gave this worker up, or another took its place: connect again to continue */
    PSD_W_ETIMEOUT = -12,    /* the deadline passed; the sentence names what the call was waiting for */
    PSD_W_EAGAIN = -13,      /* nothing yet (a timeout of 0) */
    PSD_W_ESYSTEM = -14,     /* the operating system denies a thread, a socket, a descriptor */
    PSD_W_EAUTH = -15,       /* the servers do not admit this worker's key, or one side has keys and the other has none */
    PSD_W_ESTOPPED = -16,    /* the configuration's `interrupted` has ended the wait */
    PSD_W_EFAILED = -17      /* the job has failed: too many rounds in a row made no step; the sentence says why */
};

/* How to join. To begin with, set only `join` or `cluster_file`, and the keys or `insecure`; leave the rest zero. If `join` and
 * `cluster_file` are both unset, the library takes every value that is 0 or NULL here from where psd-worker takes it: `job_file`,
 * the environment (PSD_JOIN, PSD_WORKER__KEY, ...), and the variables of launchers such as Slurm, mpirun and Kubernetes; `psdctl
 * run JOB -- PROGRAM` sets all of them for its programs. Strings are copied. */
typedef struct psd_worker_config {
    size_t size;      /* sizeof(psd_worker_config_t), so that the struct may grow */
    const char *join; /* "tcp://host:7470": the coordinator, that is, server 0 */
    const char *job;  /* name of the job; must equal the servers'. NULL: "psd" */
    const char *name; /* name of this worker in logs and status. NULL: host:pid */
    int worker;       /* the requested id, plus 1 (ids count from 0); 0: the servers choose */
    /* How long psd_worker_connect and _register wait at most, and, later, any call for a server that has fallen silent; 0: 60000;
     * negative: without limit. */
    int join_timeout_ms;
    /* Called with one line per event, from the library's thread or from one that is in psd_worker_*; NULL: silent. level: 0 error,
     * 1 warn, 2 info, 3 debug. */
    void (*log)(void *arg, int level, const char *id, const char *line);
    void *log_arg;             /* passed to `log` */
    const char *key;           /* file with this worker's secret key, made by psdctl keygen */
    const char *server_public; /* the servers' public key, 40 characters, or a file with it */
    int insecure; /* no keys: nothing is encrypted, and only servers on this machine that also run without keys will do */
    /* If `join` is NULL: a file that server 0 writes (option cluster.file) with its address and its public key, which the library
     * trusts if `server_public` is NULL. The library waits for the file, and reads it again if no server answers at its address. */
    const char *cluster_file;
    /* A text of at most 255 bytes on what this worker trains on, such as its rows, batch and seed. If it differs from that of the
     * present workers, this worker is refused (PSD_W_EREFUSED), and the sentence quotes both. NULL: not compared. */
    const char *recipe;
    /* Rows of the training set, for a schedule of the learning rate that counts epochs (schedule.unit); all workers must give the
     * same number. 0: not known; such a job refuses this worker. */
    uint64_t rows;
    /* If neither `join` nor `cluster_file` is given: a job file. The library reads from it only which job to join, as which worker,
     * and how; NULL: none. */
    const char *job_file;
    /* Called about every 100 ms by calls that wait for a server, on the calling thread. Nonzero ends the wait with PSD_W_ESTOPPED;
     * the exchange under way continues. NULL: waits are not interrupted. */
    int (*interrupted)(void *arg);
    void *interrupted_arg;
    /* Threads that encrypt, decrypt and transfer messages through sockets, 1 to 16. More than one helps only with several servers,
     * because each connection uses one thread. 0: 1. */
    int net_threads;
} psd_worker_config_t;

/* Start a handle and join the job. `*out` is set even on failure (for psd_worker_error), NULL only without memory; close it in
 * any case. A configuration larger than this library's is refused. PSD_W_ETIMEOUT, PSD_W_EREFUSED, PSD_W_EAUTH, PSD_W_ECONFIG,
 * PSD_W_EINVAL. */
int psd_worker_connect(psd_worker_t **out, const psd_worker_config_t *config);

/* An array of `n` floats, all 0, at a multiple of 64 bytes, in memory that servers of this machine may read: gradients that lie in
 * it go there without being copied; a tensor's `data` may lie in it too. If servers are elsewhere, or net.local is off, it is
 * ordinary memory. You may take an array as soon as there is a handle, connected or not. It stays valid whatever happens to
 * connections and servers, and belongs to this handle: other handles treat it as an array of the program's. One array may hold many
 * tensors: those that follow each other in it, in the order of registration, travel together. Servers can read everything that was
 * ever in it, so keep no secrets there. A child by fork() shares it with its parent, and must not write there. NULL, with the
 * sentence, when memory runs out. */
float *psd_worker_alloc(psd_worker_t *self, size_t n);

/* The same for weights that the program only reads: put tensors' `data` into it, each at a multiple of a page (4096 bytes) if it is
 * large, write the initial values, and register. From then on the weights of a synchronous job (bsp) that come from servers of this
 * machine are not copied: the pages of the servers' memory take the place of the array's own. So a program that writes to it after
 * psd_worker_register may crash (SIGSEGV). Its values are valid between exchanges, and undefined while one is open and after one
 * that failed; after psd_worker_leave they are the last ones. psd_worker_pull_slow cannot write there. */
float *psd_worker_alloc_weights(psd_worker_t *self, size_t n);

/* Free an array; psd_worker_close frees the rest. Pointers into it are invalid afterwards. NULL is fine. PSD_W_EINVAL, and the
 * array stays, while an exchange or a pull is open, if a registered tensor's data lies in it, and if it is not one of this
 * handle's. */
int psd_worker_free(psd_worker_t *self, float *array);

/* A tensor: `data` holds `n` initial values at registration, and the newest pulled weights after each exchange. It is borrowed
 * until the handle is closed; the library writes it only while an exchange (or registration) is open. All workers must register the
 * same list with the same values, all finite; the values of the first worker become the job's. */
typedef struct psd_tensor {
    const char *name;      /* unique within the list; copied */
    const uint64_t *shape; /* n_dims sizes, row-major; copied */
    size_t n_dims;         /* 0: a scalar */
    float *data;           /* product(shape) elements */
} psd_tensor_t;

/* Register the model, once, and wait until this worker is a member and holds the job's current weights (which are
 * the initial ones at the start, newer ones for a worker that joins later). While parts of the model travel, however slowly,
 * join_timeout_ms starts again. */
int psd_worker_register(psd_worker_t *self, const psd_tensor_t *tensors, size_t n_tensors);

/* One field of the state that an optimizer keeps of a tensor, under the names of psdctl export, which are torch's where torch
 * has them: "exp_avg", "momentum_buffer", "slow_param", "step", ... */
typedef struct psd_worker_field {
    const char *tensor; /* its name, as it is registered */
    const char *field;
    const float *data; /* n elements, row-major; NULL: the field is `number`, such as "step" */
    size_t n;
    double number;
} psd_worker_field_t;

/* The optimizer state that a new job starts with. */
typedef struct psd_worker_state {
    size_t size; /* sizeof(psd_worker_state_t), so that the struct may grow */
    const psd_worker_field_t *field;
    size_t n;
    /* 0: the state must have every field that the job's optimizer keeps of each tensor, and no other field. 1: a tensor with a
     * missing field starts with fresh state, missing slow weights start as the weights, and superfluous fields are ignored; the log
     * names what is missing (state.missing). */
    int partial;
    /* The rule that kept the state, and its parameter groups, written as for options optimizer and groups: state of another
     * optimizer than the job's is refused. NULL: unknown. */
    const char *optimizer, *groups;
} psd_worker_state_t;

/* psd_worker_register for initial values that another optimizer has trained before: the job continues with the state and the update
 * counts of that optimizer. The learning rate and its schedule are the job's own, and start at step 0. Like the initial values, the
 * state must be the same for all workers, and is not used if the job has begun already, or continues from a checkpoint. Everything
 * is copied. `state` NULL: none. PSD_W_EDATA if the state does not fit the job's optimizer: the sentence names tensor and field. */
int psd_worker_register_with(psd_worker_t *self, const psd_tensor_t *tensors, size_t n_tensors, const psd_worker_state_t *state);

/* Where this worker stands for its next exchange; values do not change while no exchange is open. */
typedef struct psd_position {
    size_t size;      /* sizeof(psd_position_t): set it before the call, so that the struct may grow */
    uint64_t clock;   /* number of the next exchange, from 1: in bsp the round, which may start late */
    uint64_t version; /* steps that made the weights now held (of shard 0) */
    uint32_t rank;    /* 0 .. world-1, for cutting batches */
    uint32_t world;   /* workers in the view */
    uint32_t worker;  /* id, from 0: the number in logs, file names and status */
    uint64_t incarnation;
    uint64_t run; /* of the job: another number each time the servers resume it */
    int has_slow; /* the optimizer keeps slow weights: evaluate those (psd_worker_pull_slow) */
    int gathered; /* the last round has made no step yet: its gradients wait for those of later ones (sync.accumulate) */
} psd_position_t;

/* Fill in as much of `out` as its size says. PSD_W_EINVAL for a size of 0 or larger than this library's. */
int psd_worker_position(psd_worker_t *self, psd_position_t *out);

/* The mean loss over the samples of the last step, as all workers have reported it: in bsp, of the round that the last exchange
 * closed. 0 before the first. */
double psd_worker_round_loss(const psd_worker_t *self);

/* The learning rate of the step that made the weights now held (of shard 0), as the schedule, sync.lr_rule and psd_worker_set_lr or
 * psdctl set made it; if the servers have made no step since they started, that of the next one. A tensor's rate is this times the
 * lr_mult of its group. */
double psd_worker_step_lr(const psd_worker_t *self);

/* The number of samples, of all workers and since the job's first step, behind the weights now held. Samples of gradients that made
 * no step do not count. */
uint64_t psd_worker_job_samples(const psd_worker_t *self);

/* How the job trains. The texts are valid until the handle is closed. */
typedef struct psd_worker_settings {
    size_t size;               /* sizeof(psd_worker_settings_t): set it before the call, so that the struct may grow */
    const char *text;          /* all of it on one line, for people and logs: "servers=2 mode=bsp optimizer=adam(lr=0.001, ...)" */
    const char *mode;          /* "bsp", "asp": option sync.mode */
    const char *optimizer;     /* the rule with all its values, as option optimizer takes it */
    const char *lr_rule;       /* asp: option sync.lr_rule; otherwise "" */
    double lr;                 /* base learning rate in force when this worker joined */
    double clip_value;         /* bound of each element of the summed gradient; 0: none */
    double clip_norm;          /* bound of its Euclidean norm; 0: none */
    uint64_t max_staleness;    /* asp: steps by which a push may be late; 0: any number */
    uint32_t servers;          /* how many shards the model is cut into */
    uint32_t lease_ms;         /* silence after which the servers give a worker up */
    const char *codec_push;    /* how gradients travel: "f32", "topk(0.01)": option codec.push */
    const char *codec_pull;    /* how weights travel: option codec.pull */
    int has_slow;              /* the optimizer keeps slow weights (psd_worker_pull_slow) */
    int in_rounds;             /* a step is made of one push of each worker; 0: each push is a step */
    int checkpoints;           /* the servers make checkpoints */
    const char *schedule;      /* of the learning rate, with all its values: option schedule; `lr` is its base */
    const char *schedule_unit; /* what it counts: option schedule.unit */
    const char *groups;        /* tensors with their own settings, as option groups takes it; "": none */
    uint32_t accumulate;       /* rounds that make one step together: option sync.accumulate; at least 1 */
} psd_worker_settings_t;

/* Fill in `out`, as much of it as its size says. PSD_W_EINVAL for a size of 0, or a larger one than this library's;
 * PSD_W_EAGAIN before psd_worker_connect has succeeded. */
int psd_worker_settings(psd_worker_t *self, psd_worker_settings_t *out);

/* Whether the job trains by `rule`, written as in option optimizer, with or without defaults. PSD_W_EREFUSED if it trains by
 * another rule (the sentence names both), PSD_W_EINVAL if `rule` is not a rule, PSD_W_EAGAIN as above. */
int psd_worker_check_rule(psd_worker_t *self, const char *rule);

/* How the job trains a tensor: by its group (option groups), or by the job's own rule. The texts are valid until the next call. */
typedef struct psd_worker_group {
    size_t size;           /* sizeof(psd_worker_group_t): set it before the call, so that the struct may grow */
    const char *match;     /* the pattern of the group; "": no pattern matches this name */
    const char *optimizer; /* the rule with all its values; of no meaning for a frozen tensor */
    double lr_mult;        /* its learning rate is the job's times this */
    int clips;             /* its gradient is clipped by the job's bounds */
    int freezes;           /* it stays as it is */
} psd_worker_group_t;

/* Fill in `out` for a tensor named `tensor`; psd assumes that one that is not registered is a matrix. PSD_W_EINVAL for a size of 0
 * or larger than this library's; PSD_W_EAGAIN as above. */
int psd_worker_group(psd_worker_t *self, const char *tensor, psd_worker_group_t *out);

/* How a tensor was trained in a step that the servers measured (option health.every; docs/monitoring.md explains the figures). */
typedef struct psd_worker_health {
    size_t size;          /* sizeof(psd_worker_health_t): set it before the call, so that the struct may grow */
    uint64_t step;        /* which step of the job */
    double gradient_norm; /* of the mean gradient that the optimizer got; NaN, as the figures below, if there was never one */
    double weight_norm;   /* before the step */
    double update_ratio;  /* the norm of what the step changed, divided by that of the weights */
    double zero_share;    /* of the gradients that were 0 */
    double cut_share;     /* of the gradients that clip.value cut, or, without it, that are too large to be squared */
} psd_worker_health_t;

/* Fill in `out` with the newest figures of tensor number `tensor` (as registered, from 0). The servers send them, for the first 128
 * tensors and a few times a second at most, only to worker 0, which records the run: PSD_W_EAGAIN if this worker has none, or none
 * yet. PSD_W_EINVAL if there is no such tensor, and for a size of 0 or larger than this library's. */
int psd_worker_health(psd_worker_t *self, size_t tensor, psd_worker_health_t *out);

typedef uint64_t psd_ticket_t;

/* One exchange: push the mean gradient over `samples` samples (gradients[i] for tensor i; NULL: this worker has no gradient for it,
 * and the tensor is skipped if no other worker has one) and pull the next weights into the tensors' data. `samples` is at most
 * 2^40; with 0 and NULL gradients, this worker takes part in the round without contributing. `loss` is the mean loss, for the
 * status page; NaN or Inf is shown as missing. Arrays are borrowed until psd_worker_wait on the ticket returns. One exchange may be
 * open at a time. */
int psd_worker_exchange(psd_worker_t *self, const float *const *gradients, uint64_t samples, double loss, psd_ticket_t *ticket);

/* The same, tensor by tensor: push the gradient of tensor number `tensor` (as registered, from 0) as soon as it is known, while
 * others are still being computed. The library sends each part of the model when all of its tensors have been pushed. The first
 * call opens the exchange, with its samples (at least 1) and loss; the last tensor completes it, and the weights are those of one
 * psd_worker_exchange with all gradients. Push every tensor once, in any order, with NULL if it has no gradient. All calls return
 * the same ticket, and weights do not change before the last call. If the whole gradient must be measured first (a lossy
 * codec.push, or clip.norm in asp), everything is sent with the last call. PSD_W_EINVAL, and the exchange stays open as it was, if
 * there is no such tensor, if it was pushed already, or if `samples` differs from the first call's. psd_worker_wait returns
 * PSD_W_EINVAL before the last call. Only the first call's loss counts. Arrays are borrowed as above. */
int psd_worker_push(psd_worker_t *self, size_t tensor, const float *gradient, uint64_t samples, double loss, psd_ticket_t *ticket);

/* Wait for a ticket. When servers were lost and have restarted from a checkpoint, the library rejoins by itself: the wait returns
 * PSD_W_OK, the tensors hold the checkpoint's weights, and psd_worker_position says which clock is next. It may be an earlier one:
 * if you derive each batch from the position, the run continues as if nothing had happened. The tensors change while you wait,
 * never while you compute. If the exchange fails, their values are undefined: weights may have come of a step that did not count.
 * timeout_ms < 0: as long as it takes (every 4 s the log callback says what the call waits for); 0: only look (PSD_W_EAGAIN). A
 * ticket that timed out is still open: you may wait for it again. */
int psd_worker_wait(psd_worker_t *self, psd_ticket_t ticket, int timeout_ms);

/* A file descriptor that is readable when the open ticket is done, for foreign event loops. Owned by the handle. */
int psd_worker_fd(const psd_worker_t *self);

/* Read the slow weights (Lookahead; the weights themselves under any other optimizer) as of the last exchange into out[i], one
 * array per tensor, caller-owned. No exchange may be open. PSD_W_EAGAIN: a server was lost, and the job has gone back to
 * psd_worker_position; continue exchanging from there. */
int psd_worker_pull_slow(psd_worker_t *self, float *const *out, int timeout_ms);

/* Set the job's learning rate, for all workers, from the next step that the servers decide after this returns; the servers log the
 * change. No exchange may be open. PSD_W_EINVAL for a value that is not a rate; PSD_W_EAGAIN as for psd_worker_pull_slow. */
int psd_worker_set_lr(psd_worker_t *self, double lr, int timeout_ms);

/* Say what rows this worker takes its batches from, and how, before the first exchange that uses them: "256 rows, batch_size 32, seed
 * 1". 1 to 255 bytes of printable UTF-8. Workers that divide the same rows must say the same: one whose first words no other present
 * worker has said is refused (PSD_W_EREFUSED), and the sentence quotes both. Later ones may differ, because a job may go on with
 * other rows. Workers that say nothing are not compared. No exchange may be open. PSD_W_EAGAIN as for psd_worker_pull_slow. */
int psd_worker_say_rows(psd_worker_t *self, const char *rows, int timeout_ms);

/* Send a number ("val/accuracy") for the servers' status page. Does not wait. `name`: 1 to 63 bytes of printable UTF-8. A `value`
 * of NaN or Inf is shown as missing. */
int psd_worker_report(psd_worker_t *self, const char *name, double value);

/* Whether an operator has asked this worker to leave (psdctl drain). Look between exchanges; then psd_worker_leave with
 * finished = 0. 1 or 0. */
int psd_worker_asked_to_leave(const psd_worker_t *self);

/* Leave the job cleanly; finished != 0: this worker's work is done. Waits at most timeout_ms. PSD_W_EAGAIN: a server was lost
 * before the last weights were safe, and the job has gone back; continue exchanging from psd_worker_position, then leave again.
 * PSD_W_EFENCED, or the code of an earlier failure: the servers do not know that this worker is done; if they wait for a
 * replacement of a lost worker, connect and register again to tell them. PSD_W_EINVAL: `finished` is set, and nothing is
 * registered. */
int psd_worker_leave(psd_worker_t *self, int finished, int timeout_ms);

/* Close the handle, free its arrays and set *self_p to NULL. Without psd_worker_leave, the servers notice only after the lease. */
void psd_worker_close(psd_worker_t **self_p);

/* The sentence of the last failure on this handle; "" if none. Valid until the next call. */
const char *psd_worker_error(const psd_worker_t *self);

/* -- followers: the weights of a running job, for evaluation or serving, without taking part in it. A follower has no rank, is
 * never waited for, and may end at any time. With keys, it needs a key of role reader or worker. A handle belongs to one thread at
 * a time; it works only within these calls, and starts no thread. */
typedef struct psd_follower psd_follower_t;

/* Make a handle for the job that `config` names, as psd_worker_connect does; the configuration's worker, recipe and rows are
 * ignored. It does not wait for servers. `*out` is set even on failure (for psd_follower_error), NULL only without memory; close it
 * in any case. */
int psd_follower_open(psd_follower_t **out, const psd_worker_config_t *config);

/* Read the weights as they are now, all of one version, however many servers there are: with `slow` the slow weights, if the
 * optimizer keeps them. In asp, where each server counts its own steps, servers may be a few pushes apart.
 * timeout_ms < 0: as long as it takes; the configuration's `interrupted` can end that. While servers are restarted, the call waits.
 * PSD_W_ETIMEOUT: the sentence names what it waited for; PSD_W_EREFUSED, for example when the job is finished; PSD_W_EAUTH,
 * PSD_W_ESTOPPED, PSD_W_ENOMEM. After a failure, the weights that were read before are still there. */
int psd_follower_pull(psd_follower_t *self, int slow, int timeout_ms);

/* How many tensors the model has; 0 before the first pull. Tensor number `i`, with the weights that were pulled last, which are
 * valid until the next pull: PSD_W_EINVAL if there is none. */
size_t psd_follower_n_tensors(const psd_follower_t *self);
int psd_follower_tensor(psd_follower_t *self, size_t i, psd_tensor_t *out);

/* The number of steps that made these weights (in asp, of the server that has made the fewest). */
uint64_t psd_follower_version(const psd_follower_t *self);

/* The sentence of the last failure; "" if none. */
const char *psd_follower_error(const psd_follower_t *self);

/* Close the handle and set *self_p to NULL; NULL is fine. */
void psd_follower_close(psd_follower_t **self_p);

/* Text of a return code. */
const char *psd_strerror(int code);

/* The version of the library that runs, "0.1.0"; PSD_VERSION is that of this header. */
const char *psd_version(void);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
