/* psd/worker.h - the library that trains against psd servers: connect, register tensors, exchange gradients for
 * weights, report numbers, leave.
 *
 * Words. A tensor is a named float32 array. An exchange pushes the gradient of one mini-batch and pulls the weights
 * that the servers make of it: one call, one ticket. The clock counts a worker's exchanges; in the synchronous mode
 * (bsp) it is the number of the round, the same for all workers.
 *
 * Threads. A handle belongs to one thread at a time; different handles are independent; one thread of the
 * library's own runs inside each handle. Processes. A handle is of the process that connected: after a fork the child's
 * calls that return a code return PSD_W_EINVAL, its psd_worker_close leaves the parent's handle as it is, and no other may be made. Memory. Arrays are borrowed: see each call. Errors. Calls return PSD_OK
 * (0) or a negative PSD_E... code; psd_worker_error() then has the sentence. Nothing is printed, no signal
 * is touched, nothing aborts. */
#ifndef PSD_WORKER_H
#define PSD_WORKER_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

typedef struct psd_worker psd_worker_t;

/* Return codes beside 0 (their text: psd_strerror). */
enum psd_worker_status {
    PSD_W_OK = 0,
    PSD_W_EINVAL = -1,       /* an argument is wrong */
    PSD_W_ENOMEM = -2,       /* out of memory */
    PSD_W_EIO = -3,          /* a key or the cluster's file cannot be read */
    PSD_W_EDATA = -6,        /* the cluster's file holds something else */
    PSD_W_ENOINPUT = -7,     /* there is no such key */
    PSD_W_EUNAVAILABLE = -8, /* a server or workers that the job needs stayed away for join_timeout_ms */
    PSD_W_ECONFIG = -9,      /* keys are missing, or an address does not go with them */
    PSD_W_EREFUSED = -10,    /* a server refused: other job, protocol, shapes; the sentence names both sides */
    PSD_W_EFENCED = -11,     /* the servers gave this worker up, or another took its place: connect anew to go on */
    PSD_W_ETIMEOUT = -12,    /* the deadline passed; the sentence says what was waited for */
    PSD_W_EAGAIN = -13,      /* nothing yet (a timeout of 0) */
    PSD_W_ESYSTEM = -14,     /* the operating system denies a thread, a socket, a descriptor */
    PSD_W_EAUTH = -15,       /* the servers do not let this worker's key in, or one side has keys and the other none */
    PSD_W_EFAILED = -17      /* the job has failed: too many rounds in a row made no step; the sentence says why */
};

/* How to join; all zero but `join` or `cluster_file`, and the keys or `insecure`, is a good start. Strings are copied. */
typedef struct psd_worker_config {
    size_t size;         /* sizeof(psd_worker_config_t), so that the struct may grow */
    const char *join;    /* "tcp://host:7470": the coordinator, that is, server 0 */
    const char *job;     /* name of the job; must equal the servers'. NULL: "psd" */
    const char *name;    /* name of this worker in logs and status. NULL: host:pid */
    int worker;          /* the wanted id, plus 1 (ids count from 0); 0: the servers choose */
    int join_timeout_ms; /* longest wait for psd_worker_connect and _register, and, later, for a server that has
                               * fallen silent; 0: 60000; negative: none ends */
    /* Called from the library's thread with one line per event; NULL: silent. level: 0 error 1 warn 2 info 3 debug */
    void (*log)(void *arg, int level, const char *id, const char *line);
    void *log_arg;             /* passed to `log` */
    const char *key;           /* file with this worker's secret key, made by psdctl keygen */
    const char *server_public; /* the servers' public key, 40 characters, or a file with it */
    int insecure;              /* no keys: all in the clear, with servers of this machine alone that run so */
    /* Where `join` is NULL: a file that server 0 writes (option cluster.file) with its address and its public key, which is
     * trusted where `server_public` is NULL. It is waited for, and read again when nobody is found where it leads. */
    const char *cluster_file;
    /* What this worker trains on, in some words of at most 255 bytes, such as its rows, batch and seed. While workers are
     * here, one that says other words is refused (PSD_W_EREFUSED), with both. NULL: it is not compared. */
    const char *recipe;
    /* Rows of the training set, for a schedule of the learning rate that counts epochs (schedule.unit); all workers say the same. 0: not
     * known, and such a job refuses this worker. */
    uint64_t rows;
} psd_worker_config_t;

/* Start a handle and join the job. `*out` is set even on failure (for psd_worker_error), NULL only without memory;
 * close it in any case. A configuration larger than this library's is refused. PSD_W_ETIMEOUT, PSD_W_EREFUSED, PSD_W_EAUTH, PSD_W_ECONFIG, PSD_W_EINVAL. */
int psd_worker_connect(psd_worker_t **out, const psd_worker_config_t *config);

/* An array of `n` floats, all 0, at a multiple of 64 bytes, in memory that servers of this machine may read: gradients that lie in it go
 * there without being copied; a tensor's `data` may lie in it too. Where servers are elsewhere, or net.local is off, it is memory like
 * any other. It may be taken as soon as there is a handle, whether or not that has connected, holds whatever becomes of connections and
 * servers, and is good for this handle alone: another takes it for an array of the program's. One array may hold many tensors: those
 * that follow each other there, in the order of registration, travel together. Servers see what was in it in earlier calls, so it is no
 * place for secrets. A child by fork() shares it with its parent: it must not write there. NULL when memory runs out, with the sentence. */
float *psd_worker_alloc(psd_worker_t *self, size_t n);

/* Give an array back; whatever is not, psd_worker_close does: no pointer into it is good after that. NULL is fine. PSD_W_EINVAL, and
 * the array stays: while an exchange or a pull is open; when a registered tensor's data lies in it; when it is none of this handle's. */
int psd_worker_free(psd_worker_t *self, float *array);

/* A tensor: `data` holds `n` initial values at registration, and the newest pulled weights after each exchange.
 * It is borrowed until the handle is closed; the library writes it only while an exchange (or registration) is
 * open. All workers must register the same list with the same values, all finite; the first one's become the job's. */
typedef struct psd_tensor {
    const char *name;      /* unique within the list; copied */
    const uint64_t *shape; /* n_dims sizes, row-major; copied */
    size_t n_dims;         /* 0: a scalar */
    float *data;           /* product(shape) elements */
} psd_tensor_t;

/* Register the model, once, and wait until this worker is a member and holds the job's current weights (which are
 * the initial ones at the start, newer ones for a worker that joins later). While parts of the model travel, however slowly,
 * join_timeout_ms begins anew. */
int psd_worker_register(psd_worker_t *self, const psd_tensor_t *tensors, size_t n_tensors);

/* Where this worker stands for its next exchange; values do not change while no exchange is open. */
typedef struct psd_position {
    size_t size;      /* sizeof(psd_position_t): set it before the call, so that the struct may grow */
    uint64_t clock;   /* number of the next exchange, from 1: in bsp the round, which may start late */
    uint64_t version; /* steps behind the weights now held (of shard 0) */
    uint32_t rank;    /* 0 .. world-1, for cutting batches */
    uint32_t world;   /* workers in the view */
    uint32_t worker;  /* id, from 0: the number in logs, file names and status */
    uint64_t incarnation;
    uint64_t run; /* of the job: another number each time the servers take it up again */
    int has_slow; /* the optimizer keeps slow weights: evaluate those (psd_worker_pull_slow) */
} psd_position_t;

/* Fill in `out`, as much of it as its size says. PSD_W_EINVAL for a size of 0, or a larger one than this library's. */
int psd_worker_position(psd_worker_t *self, psd_position_t *out);

/* The mean loss of the last step's samples, those of all workers, as they have reported it: in bsp that of the round which the last
 * exchange has closed. 0 before the first. */
double psd_worker_round_loss(const psd_worker_t *self);

/* The samples that all workers of the job have put into the weights now held, since the job's first step: those of gradients
 * that made no step do not count. */
uint64_t psd_worker_job_samples(const psd_worker_t *self);

/* How the job trains. The texts are valid until the handle is closed. */
typedef struct psd_worker_settings {
    size_t size;               /* sizeof(psd_worker_settings_t): set it before the call, so that the struct may grow */
    const char *text;          /* all of it on one line, for people and logs: "servers=2 mode=bsp optimizer=adam(lr=0.001, ...)" */
    const char *mode;          /* "bsp", "asp": option sync.mode */
    const char *optimizer;     /* the rule with all its values, as option optimizer takes it */
    const char *lr_rule;       /* where each push is a step: option sync.lr_rule; else "" */
    double lr;                 /* base learning rate in force when this worker joined */
    double clip_value;         /* bound of each element of the summed gradient; 0: none */
    double clip_norm;          /* bound of its Euclidean norm; 0: none */
    uint64_t max_staleness;    /* where each push is a step: steps by which it may be late; 0: none is too late */
    uint32_t servers;          /* how many shards the model is cut into */
    uint32_t lease_ms;         /* silence after which the servers give a worker up */
    const char *codec_push;    /* how gradients travel: "f32", "topk(0.01)": option codec.push */
    const char *codec_pull;    /* how weights travel: option codec.pull */
    int has_slow;              /* the optimizer keeps slow weights (psd_worker_pull_slow) */
    int in_rounds;             /* a step is made of one push of each worker; 0: each push is a step */
    int checkpoints;           /* the servers make checkpoints */
    const char *schedule;      /* of the learning rate, with all its values: option schedule; `lr` is its base */
    const char *schedule_unit; /* what it counts: option schedule.unit */
} psd_worker_settings_t;

/* Fill in `out`, as much of it as its size says. PSD_W_EINVAL for a size of 0, or a larger one than this library's;
 * PSD_W_EAGAIN before psd_worker_connect has succeeded. */
int psd_worker_settings(psd_worker_t *self, psd_worker_settings_t *out);

typedef uint64_t psd_ticket_t;

/* One exchange: push the mean gradient over `samples` samples (gradients[i] for tensor i; NULL: this tensor had no
 * gradient, it is skipped if no other worker has one) and pull the next weights into the tensors' data.
 * samples = 0 with NULL gradients: take part in the round with nothing; at most 2^40. `loss` is the mean loss, for status;
 * one that is NaN or Inf is shown as no number.
 * Arrays are borrowed until psd_worker_wait on the ticket returns. One exchange may be open at a time. */
int psd_worker_exchange(psd_worker_t *self, const float *const *gradients, uint64_t samples, double loss, psd_ticket_t *ticket);

/* The same, tensor by tensor: the gradient of tensor number `tensor` (as registered, from 0), as soon as it is known, while those of the
 * others are still computed: parts of the model leave when all of their tensors are here. The first call opens the exchange, with its
 * samples (at least 1) and loss; with the last tensor it is whole, as if psd_worker_exchange had been called with all of them, and gives
 * the same weights. Every tensor is pushed once, NULL where it has no gradient, in any order. All calls give the one ticket. Weights
 * stay as they are until the last call. Where the whole gradient has to be measured first (codec.push loses something; each push is a
 * step, and clip.norm is set), all leaves with the last.
 * PSD_W_EINVAL, and the exchange stays open as it was: there is no such tensor; it was pushed already; its samples are others than the
 * first's. psd_worker_wait is PSD_W_EINVAL before the last. Of the loss, the first counts. Arrays are borrowed as above. */
int psd_worker_push(psd_worker_t *self, size_t tensor, const float *gradient, uint64_t samples, double loss, psd_ticket_t *ticket);

/* Wait for a ticket. When servers were lost and started again from a checkpoint, the library joins them again by itself:
 * the wait returns PSD_W_OK, the tensors hold the checkpoint's weights, and psd_worker_position says which clock is next,
 * which may be an earlier one: derive each batch from the position, and the run goes on as if nothing had happened. The
 * tensors change while you wait, never while you compute.
 * timeout_ms < 0: as long as it takes (the log callback says every 4 s what for); 0: only look
 * (PSD_W_EAGAIN). A ticket that timed out is still open and may be waited for again. */
int psd_worker_wait(psd_worker_t *self, psd_ticket_t ticket, int timeout_ms);

/* A file descriptor that is readable when the open ticket is done, for foreign event loops. Owned by the handle. */
int psd_worker_fd(const psd_worker_t *self);

/* Read the slow weights (Lookahead; the weights themselves under any other optimizer) as of the last exchange
 * into out[i], one array per tensor, caller-owned. No exchange may be open. PSD_W_EAGAIN: a server was lost, and the job
 * has gone back to psd_worker_position; exchange again from there. */
int psd_worker_pull_slow(psd_worker_t *self, float *const *out, int timeout_ms);

/* Set the job's learning rate, for all workers, from the next step that is decided after this returns; the change is
 * logged by the servers. No exchange may be open. PSD_W_EINVAL for a value that is no rate;
 * PSD_W_EAGAIN as for psd_worker_pull_slow. */
int psd_worker_set_lr(psd_worker_t *self, double lr, int timeout_ms);

/* Send a number ("val/accuracy") for the servers' status page. Does not wait. `name`: 1 to 63 bytes of printable
 * UTF-8. A `value` that is NaN or Inf is shown as no number. */
int psd_worker_report(psd_worker_t *self, const char *name, double value);

/* Whether an operator has asked this worker to leave (psdctl drain). Look between exchanges; then psd_worker_leave with
 * finished = 0. 1 or 0. */
int psd_worker_asked_to_leave(const psd_worker_t *self);

/* Leave the job in good order; finished != 0: this worker's work is done. Waits at most timeout_ms.
 * PSD_W_EAGAIN: a server was lost before the last weights were safe, and the job has gone back; psd_worker_position says
 * where: exchange again from there, then leave again. PSD_W_EFENCED, and what else had failed before: the servers do not
 * know that this worker is done; where they wait for a lost one to be replaced, connect and register anew to say so.
 * PSD_W_EINVAL: finished, and nothing is registered. */
int psd_worker_leave(psd_worker_t *self, int finished, int timeout_ms);

/* Close the handle and free its arrays (without psd_worker_leave the servers notice after the lease) and set *self_p to NULL. */
void psd_worker_close(psd_worker_t **self_p);

/* The sentence of the last failure on this handle; "" if none. Valid until the next call. */
const char *psd_worker_error(const psd_worker_t *self);

/* Text of a return code. */
const char *psd_strerror(int code);

/* "0.1.0" */
const char *psd_version(void);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
