/* message.h - bytes <-> plain structs, with every check that can be made without knowing the job.
 *
 * A psd message is exactly two ZeroMQ frames (a ROUTER sees a routing id before them): a protobuf `Header` of at most 4 KiB and a
 * payload, which is empty, a part of the model (raw little-endian float32), a bitmap of parts, or a small protobuf message of its
 * own. Meaning of each kind and field: proto/PROTOCOL.md. Nothing here uses a socket. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/crc32c.h"
#include "common/base/err.h"
#include "common/base/partition.h"
#include "common/base/server_set.h"
#include "common/codec/codec.h"
#include "common/optim/optimizer.h"

enum {
    PSD_PROTOCOL = 8,           /* version of the protocol */
    PSD_MAX_HEADER = 4096,      /* bytes of a header frame */
    PSD_MAX_LIST = 4 << 20,     /* bytes of a payload that is a protobuf message */
    PSD_MAX_CHUNK = 1 << 18,    /* elements of a chunk, and of a part */
    PSD_MAX_TEXT = 1024,        /* bytes of a header's text, with its end */
    PSD_MAX_RECIPE = 256,       /* bytes of a worker's recipe, with its end */
    PSD_MAX_NAME = 128,         /* bytes of a job, tensor or host name, with its end */
    PSD_MAX_WORD = 256,         /* bytes of the word in an operator's request, with its end */
    PSD_MAX_VERB = 16,          /* bytes of its verb, or of a mode's name, with its end */
    PSD_MAX_RULE = 512,         /* bytes of an optimizer's rule, with its end */
    PSD_MAX_SCHEDULE = 640,     /* of a schedule */
    PSD_MAX_GROUPS_TEXT = 2048, /* of parameter groups */
    PSD_MAX_SETTINGS = 4096,    /* of all settings of a job */
    PSD_MAX_OFFER = 48,         /* bytes of the name in an OFFER, with its end */
    PSD_OFFER_TOKEN = 32,       /* bytes of its token */
    PSD_MAX_WORKERS = 4096,     /* members of a view */
    PSD_MAX_TENSORS = 65536,    /* tensors of a model */
    PSD_MAX_DIMS = 8,           /* dimensions of a tensor */
    PSD_MAX_PARTS = 1 << 20     /* parts, and chunks, of a shard */
};

/* Counters (clocks, versions, epochs, incarnations, views) stop below this, so that one more never overflows; the
 * samples of one gradient stop at PSD_MAX_SAMPLES, so that those of all workers add up exactly in a double. */
#define PSD_MAX_COUNT    (UINT64_C(1) << 62)
#define PSD_MAX_SAMPLES  (UINT64_C(1) << 40)
#define PSD_MAX_ELEMENTS (UINT64_C(1) << 40) /* elements of a tensor */

typedef enum psd_payload {
    PSD_PAYLOAD_NONE,   /* empty */
    PSD_PAYLOAD_PART,   /* n_elements float32, and a bitmap of `chunks` bits; empty when n_elements is 0 and the kind allows it */
    PSD_PAYLOAD_BITMAP, /* (parts + 7) / 8 bytes, bit i for the i-th part of the shard, unused bits 0 */
    PSD_PAYLOAD_SUMS,   /* parts * n_elements float64, little-endian; may be none */
    /* protobuf messages, each of them a struct of the same name below */
    PSD_PAYLOAD_TENSORS,
    PSD_PAYLOAD_CLUSTER,
    PSD_PAYLOAD_ROUND,
    PSD_PAYLOAD_HELLO,
    PSD_PAYLOAD_SHARD_HELLO,
    PSD_PAYLOAD_ADMIN_REQUEST, /* may be none: an answer */
    PSD_PAYLOAD_OFFER,
} psd_payload_t;

/* The senders of a kind: a bit mask, which psd_kind_sender returns. */
enum { PSD_FROM_WORKER = 1, PSD_FROM_SHARD = 2, PSD_FROM_COORDINATOR = 4, PSD_FROM_OPERATOR = 8, PSD_FROM_FOLLOWER = 16 };

/* The receivers of a kind: a bit mask, from psd_kind_receiver. Worker, shard and coordinator have tables with a handler for it;
 * the driver is what drives a worker's session. */
enum { PSD_TO_WORKER = 1, PSD_TO_SHARD = 2, PSD_TO_COORDINATOR = 4, PSD_TO_OPERATOR = 8, PSD_TO_DRIVER = 16, PSD_TO_FOLLOWER = 32 };

/* X(NAME, number, sender, receiver, payload, may the payload be empty, meaning) - the table of message kinds. */
#define PSD_MESSAGES(X)                                                                                                            \
    X(HELLO, 1, PSD_FROM_WORKER, PSD_TO_COORDINATOR, HELLO, 0, "a worker asks the coordinator to join a job")                      \
    X(WELCOME, 2, PSD_FROM_COORDINATOR, PSD_TO_WORKER, CLUSTER, 0, "its id, incarnation, and where the servers are")               \
    X(REFUSED, 3, PSD_FROM_COORDINATOR | PSD_FROM_SHARD, PSD_TO_WORKER | PSD_TO_SHARD | PSD_TO_OPERATOR | PSD_TO_FOLLOWER, NONE,   \
      0, "the reason, quoting both sides in text")                                                                                 \
    X(WAIT, 4, PSD_FROM_COORDINATOR | PSD_FROM_SHARD, PSD_TO_WORKER | PSD_TO_SHARD | PSD_TO_OPERATOR | PSD_TO_FOLLOWER, NONE, 0,   \
      "not yet, and what it waits for, in text; ask again")                                                                        \
    X(FENCED, 5, PSD_FROM_COORDINATOR | PSD_FROM_SHARD, PSD_TO_WORKER, NONE, 0, "you were replaced or given up: stop")             \
    X(REGISTER, 6, PSD_FROM_WORKER, PSD_TO_COORDINATOR, TENSORS, 0, "a worker's tensors, to the coordinator")                      \
    X(REGISTERED, 7, PSD_FROM_COORDINATOR, PSD_TO_WORKER, NONE, 0, "they agree with the job's")                                    \
    X(HEARTBEAT, 8, PSD_FROM_WORKER | PSD_FROM_COORDINATOR, PSD_TO_COORDINATOR | PSD_TO_WORKER, NONE, 0,                           \
      "still here; answered in kind")                                                                                              \
    X(LEAVE, 9, PSD_FROM_WORKER, PSD_TO_COORDINATOR, NONE, 0,                                                                      \
      "a worker leaves; code 0: its work is done; 2: it knows that it has left")                                                   \
    X(LEFT, 10, PSD_FROM_COORDINATOR, PSD_TO_WORKER, NONE, 0, "good-bye")                                                          \
    X(REPORT, 11, PSD_FROM_WORKER, PSD_TO_COORDINATOR, NONE, 0, "a named number for the status page: text, value, clock")          \
    X(ATTACH, 12, PSD_FROM_WORKER, PSD_TO_SHARD, NONE, 0, "a worker opens its session with a shard")                               \
    X(ATTACHED, 13, PSD_FROM_SHARD, PSD_TO_WORKER, NONE, 0, "the shard's state")                                                   \
    X(INIT_WANTED, 14, PSD_FROM_SHARD, PSD_TO_WORKER, BITMAP, 0, "please send the initial values of these parts")                  \
    X(INIT, 15, PSD_FROM_WORKER, PSD_TO_SHARD, PART, 0, "initial values of one part")                                              \
    X(PUSH, 16, PSD_FROM_WORKER, PSD_TO_SHARD, PART, 1, "one part's gradient for a clock; empty: no gradient")                     \
    X(WEIGHTS, 17, PSD_FROM_SHARD, PSD_TO_WORKER, PART, 1, "one part's weights for the next clock; empty: unchanged")              \
    X(PROBE, 18, PSD_FROM_WORKER, PSD_TO_SHARD, BITMAP, 0, "which of my pushes are missing; send me these weights")                \
    X(PROGRESS, 19, PSD_FROM_SHARD, PSD_TO_WORKER, BITMAP, 0, "send me these pushes of the clock")                                 \
    X(PULL, 20, PSD_FROM_WORKER, PSD_TO_SHARD, BITMAP, 0, "send these parts' slow weights")                                        \
    X(SLOW, 21, PSD_FROM_SHARD, PSD_TO_WORKER, PART, 0, "one part's slow weights")                                                 \
    X(SHARD_HELLO, 22, PSD_FROM_SHARD, PSD_TO_COORDINATOR, SHARD_HELLO, 0, "a server asks to serve")                               \
    X(SHARD_WELCOME, 23, PSD_FROM_COORDINATOR, PSD_TO_SHARD, NONE, 0, "its index, and how many servers there are")                 \
    X(COMMAND, 24, PSD_FROM_COORDINATOR, PSD_TO_SHARD, ROUND, 0, "the next entry of the coordinator's log")                        \
    X(MODEL, 25, PSD_FROM_COORDINATOR, PSD_TO_SHARD | PSD_TO_FOLLOWER, TENSORS, 0,                                                 \
      "an entry of that log, or an answer to FOLLOW: the job's tensors")                                                           \
    X(SETTING, 27, PSD_FROM_WORKER | PSD_FROM_COORDINATOR, PSD_TO_COORDINATOR | PSD_TO_WORKER, NONE, 0,                            \
      "set what text names to value from the next decision on; answered in kind")                                                  \
    X(SUMS, 29, PSD_FROM_SHARD, PSD_TO_COORDINATOR, SUMS, 1, "measurements of a pass before the step, chunk by chunk")             \
    X(TOTALS, 30, PSD_FROM_COORDINATOR, PSD_TO_SHARD, SUMS, 1, "an entry of that log: the measurements summed over all shards")    \
    X(LOOK, 34, PSD_FROM_SHARD, PSD_TO_COORDINATOR, SUMS, 0, "what a step has done to the shard's tensors, chunk by chunk")        \
    X(HEALTH, 35, PSD_FROM_COORDINATOR, PSD_TO_WORKER, SUMS, 0, "figures of each tensor, for the worker that records the run")     \
    X(SHARD_STATE, 26, PSD_FROM_SHARD, PSD_TO_COORDINATOR, ROUND, 0, "log entries done, and pushes complete for the open clock")   \
    X(RESIDUAL_WANTED, 32, PSD_FROM_WORKER | PSD_FROM_SHARD, PSD_TO_SHARD | PSD_TO_WORKER, BITMAP, 0,                              \
      "send these parts of a worker's residual: to save it, or to continue from it")                                               \
    X(RESIDUAL, 33, PSD_FROM_WORKER | PSD_FROM_SHARD, PSD_TO_SHARD | PSD_TO_WORKER, PART, 1,                                       \
      "one part of it; empty: there is none")                                                                                      \
    X(OFFER, 31, PSD_FROM_SHARD, PSD_TO_DRIVER, OFFER, 0, "a channel through shared memory, for a worker on the same machine")     \
    X(FOLLOW, 36, PSD_FROM_FOLLOWER, PSD_TO_COORDINATOR, HELLO, 0, "which snapshot of the weights may be read")                    \
    X(FOLLOWED, 37, PSD_FROM_COORDINATOR, PSD_TO_FOLLOWER, CLUSTER, 0, "this one, and where the servers are")                      \
    X(READ, 38, PSD_FROM_FOLLOWER, PSD_TO_SHARD, BITMAP, 0, "send these parts of the snapshot")                                    \
    X(VALUES, 39, PSD_FROM_SHARD, PSD_TO_FOLLOWER, PART, 1, "one part of it; empty: it is gone")                                   \
    X(ADMIN, 28, PSD_FROM_OPERATOR | PSD_FROM_COORDINATOR, PSD_TO_COORDINATOR | PSD_TO_OPERATOR, ADMIN_REQUEST, 1,                 \
      "an operator's request; answered in kind with a sentence in text, or with WAIT or REFUSED")

typedef enum psd_kind {
#define X(name, number, sender, receiver, payload, may_be_empty, meaning) PSD_MSG_##name = number,
    PSD_MESSAGES(X)
#undef X
} psd_kind_t;

/* Refusal codes, in REFUSED.code (names are printed by psd_refusal_name and are label values of a metric). */
#define PSD_REFUSALS(X)                                                                                                            \
    X(NONE, 0, "none", PSD_OK)                                                                                                     \
    X(PROTOCOL, 1, "protocol", PSD_OK)                                                                                             \
    X(JOB, 2, "job", PSD_OK)                                                                                                       \
    X(SHAPE, 3, "shape", PSD_OK)                                                                                                   \
    X(VIEW, 4, "view", PSD_OK)                                                                                                     \
    X(INCARNATION, 5, "incarnation", PSD_OK)                                                                                       \
    X(WORKER, 6, "worker", PSD_OK)                                                                                                 \
    X(SHARD, 7, "shard", PSD_OK)                                                                                                   \
    X(CLOCK, 8, "clock", PSD_OK)                                                                                                   \
    X(CHECKSUM, 9, "checksum", PSD_OK)                                                                                             \
    X(NONFINITE, 10, "nonfinite", PSD_OK)                                                                                          \
    X(DUPLICATE, 11, "duplicate", PSD_OK)                                                                                          \
    X(STALE, 12, "stale", PSD_OK)                                                                                                  \
    X(MALFORMED, 13, "malformed", PSD_OK)                                                                                          \
    X(SENDER, 14, "sender", PSD_OK)                                                                                                \
    X(FULL, 15, "full", PSD_OK)                                                                                                    \
    X(SESSION, 16, "session", PSD_OK)                                                                                              \
    X(CONFIG, 17, "config", PSD_OK)                                                                                                \
    X(RUN, 18, "run", PSD_OK)                                                                                                      \
    X(ABSENT, 19, "absent", PSD_EUNAVAILABLE)                                                                                      \
    X(HOPELESS, 20, "hopeless", PSD_EDIVERGED)                                                                                     \
    X(LOST, 21, "lost", PSD_EREFUSED)                                                                                              \
    X(UNSAVED, 22, "unsaved", PSD_EIO)                                                                                             \
    X(DAMAGED, 23, "damaged", PSD_EDATA)                                                                                           \
    X(UNFIT, 24, "unfit", PSD_ECONFIG)

typedef enum psd_refusal {
#define X(name, number, text, end) PSD_REFUSAL_##name = number,
    PSD_REFUSALS(X)
#undef X
        PSD_N_REFUSALS
} psd_refusal_t;

/* Bits of SHARD_WELCOME.code, of COMMAND.code, of FOLLOW.code, of READ.code, of SHARD_STATE.code, of a coordinator's
 * HEARTBEAT.code, of PROBE.code, of PUSH.code, and of WEIGHTS.code. */
enum {
    PSD_WELCOME_RESTORE = 1,
    PSD_WELCOME_FINISHED = 2,
    PSD_WELCOME_READY = 4,
    PSD_WELCOME_STATE = 256 /* times the state + 1 */
};
enum {
    PSD_COMMAND_FINISH = 1,
    PSD_COMMAND_SAVE = 2,
    PSD_COMMAND_STOP = 4,
    PSD_COMMAND_HOLD = 8,      /* pushes that are steps of their own wait */
    PSD_COMMAND_CLOSE = 16,    /* the round is closed, with a step or without */
    PSD_COMMAND_SAME = 32,     /* the next is expected to have the same contributors, with as many samples */
    PSD_COMMAND_EVEN = 64,     /* it is expected to have all members of the view, each with as many samples as the first */
    PSD_COMMAND_GATHER = 128,  /* the round makes no step yet: its gradients wait for those of later rounds */
    PSD_COMMAND_SNAPSHOT = 256 /* keep the weights as they are after this entry, whose number they get, for followers */
};
enum {
    PSD_FOLLOW_MODEL = 1, /* tell the model too */
    PSD_FOLLOW_GONE = 2   /* a server does not have that snapshot (any more) */
};
enum { PSD_READ_SLOW = 1 };
enum { PSD_HEARTBEAT_DRAIN = 1 };

/* How SETTING.text begins when it says what rows a worker takes its batches from, and how; it is not about a value then. */
#define PSD_SETTING_ROWS "rows="

enum { PSD_PROBE_SEND = 1 };
enum { PSD_PUSH_AHEAD = 1 };  /* weights after the step may come before the round is decided */
enum { PSD_MOST_AHEAD = 15 }; /* contributors of such a round; pushes of more are added up as they come, which takes less memory */

/* `code` of LEAVE. */
enum { PSD_LEAVE_FINISHED, PSD_LEAVE_UNFINISHED, PSD_LEAVE_KNOWS };
enum {
    PSD_WEIGHTS_RESIDUAL = 1, /* this shard holds the worker's residual, from a checkpoint */
    PSD_WEIGHTS_GATHERED = 2, /* the last closed round makes a step with later ones: the weights have not changed */
    PSD_WEIGHTS_AHEAD = 4,    /* of the round that is still open: they count if ADOPTED says so, with the same number in `seq` */
    PSD_WEIGHTS_ADOPTED = 8   /* the round is closed, and makes the step behind these */
};
enum { PSD_SHARD_STARTED = 1, PSD_SHARD_SAVE_FAILED = 2, PSD_SHARD_RESTORE_FAILED = 4 };

enum { PSD_DTYPE_F32 = 1 }; /* dtype of a chunk */

/* A decoded header; fields that a kind does not use are 0. Units and senders: proto/psd.proto. */
typedef struct psd_msg {
    psd_kind_t kind;
    uint32_t protocol;     /* PSD_PROTOCOL */
    uint64_t job;          /* this run of the job, given in WELCOME */
    uint64_t view_id;      /* numbered membership */
    uint64_t map_id;       /* numbered chunk -> server map */
    uint32_t worker;       /* id, from 0 */
    uint64_t incarnation;  /* rises each time a worker joins; from 1 */
    uint64_t clock;        /* number of the round (bsp) or of the worker's own push (asp), from 1 */
    uint64_t base_version; /* version of the weights that the gradient was taken at */
    uint64_t version;      /* committed steps of the shard */
    uint64_t sync_epoch;   /* Lookahead syncs of the shard */
    uint32_t shard;        /* index of the server */
    uint64_t shard_epoch;  /* rises each time that server starts; from 1 */
    uint32_t part;         /* index of one of the shard's parts, which are runs of its chunks (common/base/partition.h) */
    uint32_t parts;        /* parts of the shard */
    uint64_t samples;      /* loss terms behind the gradient (n_i) */
    double loss;           /* mean loss of those samples; may be Inf or NaN: a diverged run must be seen */
    double norm2;          /* sum of squares of the worker's whole gradient, if the worker computes it (asp); otherwise 0 */
    bool nonfinite;        /* a value behind norm2 is Inf or NaN; only then may norm2 be */
    uint32_t dtype;        /* PSD_DTYPE_F32 with a part */
    uint32_t codec;        /* number of the codec of a part (common/codec/codec.h); PSD_CODEC_F32: the elements themselves */
    uint32_t checksum;     /* CRC-32C of the payload; 0 when empty, or `proven`; set when it is sent (proto/wire.h) */
    bool proven;           /* the transport protects the payload, which has no checksum */
    uint32_t n_elements;   /* elements of the part; in SHARD_WELCOME the most of one */
    uint32_t chunks; /* of the part; a bitmap of those with a gradient follows the elements. 0: all have one, without a bitmap */
    uint64_t seq;    /* log entry; or echoes the asker's number */
    uint64_t saved;  /* clock of the newest durable checkpoint; in WEIGHTS, of the residual that a checkpoint needs; plus 1 */
    uint32_t code;   /* refusal, or state; by kind */
    uint32_t rank;   /* position among the members of the view, from 0 */
    uint32_t world;  /* members of the view */
    double lr;       /* learning rate of the step */
    double value;    /* a number, by kind; may be Inf or NaN */
    char text[PSD_MAX_TEXT]; /* NUL-terminated printable UTF-8 */
} psd_msg_t;

/* Name of a kind ("PUSH") or "unknown"; payload, sender and receiver from its row. */
const char *psd_kind_name(psd_kind_t kind);
psd_payload_t psd_kind_payload(psd_kind_t kind);
unsigned psd_kind_sender(psd_kind_t kind);
unsigned psd_kind_receiver(psd_kind_t kind);

/* Whether it belongs to the exchange between a worker and a shard: parts, and bitmaps of parts. These may travel by another
 * transport than the rest, which keeps their order. */
bool psd_kind_is_data(psd_kind_t kind);
const char *psd_refusal_name(unsigned code);

/* The error with which every peer ends after this refusal, because the job ends; PSD_OK: it concerns only the sender. */
int psd_refusal_end(unsigned code);

/* Write the header frame of `msg` into `frame`; returns its length. Asserts that it fits: text is bounded. */
size_t psd_msg_encode(const psd_msg_t *msg, uint8_t frame[PSD_MAX_HEADER]);

/* Read a header frame that came with a payload of `payload_bytes`. Checks: length before parsing; the canonical protobuf encoding,
 * without unknown or repeated fields; protocol version; known kind; text printable UTF-8 without NUL; every field within its limit;
 * part < parts and rank < world (0 of 0 is fine); lr finite and not negative; norm2 likewise unless `nonfinite`; the payload's
 * length as the kind requires (for a part in f32, n_elements * 4 and its bitmap; in another codec, any length below PSD_MAX_CODED
 * bytes per element: code that knows the chunks checks more; the bitmap of `parts`; 1 .. PSD_MAX_LIST for a protobuf message,
 * otherwise 0); dtype and codec known when there are elements. The checksum itself is compared by psd_checksum_ok, when the payload
 * is worth reading. PSD_EPROTO, with a sentence naming the kind and the field, when anything is wrong. `out` is all zero then, but
 * for kind and protocol where they could be read. Never allocates from the heap. Any thread. */
int psd_msg_decode(psd_msg_t *out, const void *frame, size_t n_bytes, size_t payload_bytes, psd_err_t *err);

/* -- frames as they travel: a header, then the CRC-32C of its bytes, little-endian. A payload has its own in `checksum`, unless
 * it is `proven`. psd_wire_write sets that of a part, and the reader compares it; that of any other payload is set and compared
 * here. So no damaged message is accepted. */
enum { PSD_SEAL = 4, PSD_MAX_FRAME_HEADER = PSD_MAX_HEADER + PSD_SEAL };

/* Encode `msg`, which goes with this payload (NULL when `n_bytes` is 0), and seal it. Returns the frame's length. */
size_t psd_msg_seal(const psd_msg_t *msg, const void *payload, size_t n_bytes, uint8_t frame[PSD_MAX_FRAME_HEADER]);

/* Decode such a frame. PSD_EDATA when a checksum is wrong: the message counts as lost, and `out` is all zero. Otherwise as
 * psd_msg_decode. */
int psd_msg_open(psd_msg_t *out, const void *frame, size_t n_frame, const void *payload, size_t n_bytes, psd_err_t *err);

/* Whether the payload is the one that was sent: it is proven, or has the checksum in the message. */
bool psd_checksum_ok(const psd_msg_t *msg, const void *payload, size_t n_bytes);

/* -- payloads that are protobuf messages. Encoders return bytes written, at least 1; 0 when `capacity` or PSD_MAX_LIST is too
 * small. Decoders check everything (counts, ranges, unique names, products without overflow) and return PSD_EPROTO with a reason,
 * or PSD_ENOMEM; `out` is then empty. Any thread. */
typedef struct psd_tensor_desc {
    char name[PSD_MAX_NAME];    /* unique in its list, printable, not empty */
    uint32_t n_dims;            /* 0 for a scalar */
    uint64_t dim[PSD_MAX_DIMS]; /* each at least 1 */
    uint64_t n_elements;        /* their product, at least 1, at most 2^40 */
} psd_tensor_desc_t;

typedef struct psd_tensor_list {
    uint32_t n;                 /* 1 .. PSD_MAX_TENSORS */
    psd_tensor_desc_t *tensor;  /* n of them; owned by the list */
    uint64_t rows;              /* samples of an epoch; 0: not known */
    psd_inherited_t *inherited; /* n of them, owned too; NULL: all state is new */
} psd_tensor_list_t;

typedef struct psd_hello {
    char job[PSD_MAX_NAME];  /* not empty */
    char name[PSD_MAX_NAME]; /* the worker's */
} psd_hello_t;

typedef struct psd_shard_hello {
    char job[PSD_MAX_NAME];          /* not empty */
    char endpoint[PSD_MAX_NAME];     /* its address */
    char settings[PSD_MAX_SETTINGS]; /* must equal the coordinator's */
} psd_shard_hello_t;

typedef struct psd_admin_request {
    char job[PSD_MAX_NAME];  /* not empty */
    char verb[PSD_MAX_VERB]; /* a row of server/core/admin.c */
    char word[PSD_MAX_WORD]; /* "": none */
    double value;            /* finite */
} psd_admin_request_t;

typedef struct psd_offer {
    char name[PSD_MAX_OFFER]; /* not empty */
    uint8_t token[PSD_OFFER_TOKEN];
} psd_offer_t;

typedef struct psd_job_settings {
    char text[PSD_MAX_SETTINGS];      /* "mode=bsp optimizer=adam(...)", for display, logs and comparison */
    char mode[PSD_MAX_VERB];          /* "bsp", "asp" */
    char optimizer[PSD_MAX_RULE];     /* the rule in its canonical spelling */
    char lr_rule[PSD_MAX_VERB];       /* if each push is a step, how staleness scales the rate; otherwise "" */
    char groups[PSD_MAX_GROUPS_TEXT]; /* tensors with other settings (common/optim/groups.h) */
    char schedule[PSD_MAX_SCHEDULE];  /* of the learning rate, in its canonical spelling */
    char schedule_unit[PSD_MAX_VERB]; /* what it counts */
    double lr;                        /* base learning rate in force */
    uint64_t max_staleness;           /* if each push is a step: steps by which it may be late */
    double clip_value, clip_norm;     /* bounds of the summed gradient; 0: none */
    uint32_t accumulate;              /* rounds that make one step together */
    uint32_t lease_ms;                /* silence after which a worker is given up */
    bool has_slow;                    /* the rule keeps slow weights */
    bool in_rounds;                   /* steps are made by closing rounds */
    bool whole_norm;                  /* a push includes the norm of its whole gradient */
    bool checkpoints;                 /* the servers make checkpoints */
    bool saves_residuals;             /* with the residuals of workers */
    uint32_t part_elements;           /* most elements of a part, at least 1 */
    psd_codings_t codings;            /* how gradients and weights are coded */
} psd_job_settings_t;

typedef struct psd_cluster {
    uint32_t n_servers;                           /* 1 .. PSD_MAX_SERVERS */
    char endpoint[PSD_MAX_SERVERS][PSD_MAX_NAME]; /* tcp://host:port of each shard */
    psd_job_settings_t settings;
} psd_cluster_t;

typedef struct psd_member {
    uint32_t worker; /* id */
    uint64_t incarnation;
    uint64_t samples; /* contributors and completions: n_i */
    double loss;      /* completions: mean loss */
    double norm2;     /* completions: sum of squares of the shard's part */
    bool nonfinite;   /* completions */
    uint64_t nonce;   /* members: drawn by this incarnation, and reported only by the worker itself */
} psd_member_t;

/* A COMMAND: close `clock` with the contributors (apply) and continue with the members of the next view. A SHARD_STATE:
 * contributors lists the workers whose pushes for `clock` are complete here; members is empty. */
typedef struct psd_round {
    uint64_t clock;
    bool apply;                /* COMMAND: contributors make a step */
    double lr;                 /* COMMAND: learning rate of that step */
    uint64_t view_id;          /* COMMAND: the view from here on */
    uint32_t n_contributors;   /* ascending by worker */
    psd_member_t *contributor; /* owned */
    uint32_t n_members;        /* ascending by worker */
    psd_member_t *member;      /* owned */
} psd_round_t;

size_t psd_tensors_encode(const psd_tensor_list_t *list, uint8_t *buf, size_t capacity);
int psd_tensors_decode(psd_tensor_list_t *out, const void *buf, size_t n_bytes, psd_err_t *err);
void psd_tensors_clear(psd_tensor_list_t *list);
int psd_tensors_copy(psd_tensor_list_t *out, const psd_tensor_list_t *in); /* PSD_ENOMEM */

/* The list->n tensors to cut, none of which must be whole, for the caller to free; NULL without memory. */
psd_extent_t *psd_tensors_extents(const psd_tensor_list_t *list);

/* PSD_OK when both lists are equal; otherwise PSD_EINVAL naming the first of their tensors (from 0) that differs, and that of the
 * job, which is ours: "its tensor 2 is fc1.weight [100, 784], the job's is fc1.weight [128, 784]". */
int psd_tensors_compare(const psd_tensor_list_t *ours, const psd_tensor_list_t *theirs, psd_err_t *err);

/* The same for inherited state of equal tensors; NULL: all state is new. "tensor fc1.weight: ours starts with that after 100
 * updates, with arrays 0x3, theirs with new state". */
int psd_tensors_compare_inherited(const psd_tensor_list_t *ours, const psd_tensor_list_t *theirs, psd_err_t *err);

size_t psd_hello_encode(const psd_hello_t *hello, uint8_t *buf, size_t capacity);
int psd_hello_decode(psd_hello_t *out, const void *buf, size_t n_bytes, psd_err_t *err);

size_t psd_shard_hello_encode(const psd_shard_hello_t *hello, uint8_t *buf, size_t capacity);
int psd_shard_hello_decode(psd_shard_hello_t *out, const void *buf, size_t n_bytes, psd_err_t *err);

size_t psd_offer_encode(const psd_offer_t *offer, uint8_t *buf, size_t capacity);
int psd_offer_decode(psd_offer_t *out, const void *buf, size_t n_bytes, psd_err_t *err);

size_t psd_admin_request_encode(const psd_admin_request_t *request, uint8_t *buf, size_t capacity);
int psd_admin_request_decode(psd_admin_request_t *out, const void *buf, size_t n_bytes, psd_err_t *err);

size_t psd_cluster_encode(const psd_cluster_t *cluster, uint8_t *buf, size_t capacity);
int psd_cluster_decode(psd_cluster_t *out, const void *buf, size_t n_bytes, psd_err_t *err);

size_t psd_round_encode(const psd_round_t *round, uint8_t *buf, size_t capacity);
int psd_round_decode(psd_round_t *out, const void *buf, size_t n_bytes, psd_err_t *err);
void psd_round_clear(psd_round_t *round);
