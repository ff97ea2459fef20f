/* actions.h - the actions that a pure state machine returns. The engine, the coordinator and a worker's session take one event and
 * append actions to such a list; their driver (a daemon, a client thread, a simulator) carries the actions out in order. Nothing in
 * the machines opens a socket, reads a clock or starts a thread. */
#pragma once

#include "common/base/buffer.h"
#include "common/base/peer.h"
#include "proto/wire.h"

/* The receiver or the sender of a message. common/base/peer.h defines those of a ROUTER; the names below are the fixed ones. */
typedef uint64_t psd_peer_t;
enum {
    PSD_PEER_NONE = 0,
    PSD_PEER_COORDINATOR = 1, /* as seen from a shard */
    PSD_PEER_OWN_SHARD = 2,   /* as seen from the coordinator: the shard in the same process */
    PSD_PEER_SERVER = 16      /* as seen from a worker: PSD_PEER_SERVER + index of the server */
};

typedef enum psd_act {
    PSD_ACT_SEND,
    PSD_ACT_WORK,
    PSD_ACT_LOG,
    PSD_ACT_FINISH,
    PSD_ACT_SAVE_BEGIN,    /* begin a file for the shard's state after round `clock`, then psd_engine_save_begun */
    PSD_ACT_SAVE_PART,     /* write the chunks of part `part` into it (psd_shard_state), then psd_engine_part_saved */
    PSD_ACT_SAVE_RESIDUAL, /* write part `part` of worker `worker`'s residual, `payload`, into it, then psd_engine_residual_saved */
    PSD_ACT_SAVE_END,      /* make it durable, then psd_engine_saved */
    PSD_ACT_COMMIT,        /* every shard's file of `clock` is durable: write the manifest, then psd_coordinator_committed */
    PSD_ACT_RESTORE,       /* load the shard's state of round `clock`: psd_engine_restore, then psd_engine_restored */
    PSD_ACT_LOAD_RESIDUAL  /* load worker `worker`'s residual from the checkpoint of `clock`, then psd_engine_residual_loaded */
} psd_act_t;

enum { PSD_LEVEL_ERROR, PSD_LEVEL_WARN, PSD_LEVEL_INFO, PSD_LEVEL_DEBUG };

struct psd_work; /* server/core/shard.h */

typedef struct psd_action {
    psd_act_t act;
    psd_peer_t to;         /* SEND */
    psd_buf_t *payload;    /* SEND: the body (proto/wire.h), NULL when empty; SAVE_RESIDUAL; the action holds a reference */
    struct psd_work *work; /* WORK: run it on any thread, then hand it back */
    uint64_t clock;        /* SAVE, COMMIT, RESTORE: the round */
    uint32_t part;         /* SAVE_PART, SAVE_RESIDUAL */
    uint32_t worker;       /* SAVE_RESIDUAL, LOAD_RESIDUAL */
    int level;             /* LOG: PSD_LEVEL_... ; FINISH: PSD_OK or why it ended */
    const char *id;        /* LOG: stable name of the event, static */
    psd_msg_t msg;         /* SEND: the header; LOG, FINISH: msg.text is the line */
} psd_action_t;

typedef struct psd_actions {
    size_t n, capacity;
    psd_action_t *at; /* n of them; grows as needed */
} psd_actions_t;

/* A received message, which a state machine passes to the handler of its kind. All is borrowed. */
typedef struct psd_heard {
    uint64_t now_ms;
    psd_peer_t from;
    const psd_msg_t *msg;
    psd_buf_t *payload; /* the body (proto/wire.h); NULL: it is empty */
    psd_actions_t *out; /* the handler appends its actions here */
} psd_heard_t;

/* Append a message; takes another reference to `payload` (NULL: none). Returns its header, all zero except kind and protocol, which
 * the caller must fill before the next append. Aborts when memory runs out: actions are never lost. */
psd_msg_t *psd_actions_send(psd_actions_t *self, psd_peer_t to, psd_kind_t kind, psd_buf_t *payload);

/* Append work. */
void psd_actions_work(psd_actions_t *self, struct psd_work *work);

/* Append one of the actions on checkpoints. */
void psd_actions_checkpoint(psd_actions_t *self, psd_act_t act, uint64_t clock, uint32_t part);

/* Append one of those on a worker's residual; takes another reference to `payload` (NULL: none). */
void psd_actions_residual(psd_actions_t *self, psd_act_t act, uint64_t clock, uint32_t worker, uint32_t part, psd_buf_t *payload);

/* Append a line for the log. */
void psd_actions_log(psd_actions_t *self, int level, const char *id, const char *format, ...) __attribute__((format(printf, 4, 5)));

/* Append the end: the program that drives the machine should stop with `code`. */
void psd_actions_finish(psd_actions_t *self, int code, const char *why);

/* Drop the first `n` actions' payloads and move the rest to the front. */
void psd_actions_drop(psd_actions_t *self, size_t n);

/* Free everything. All zero is a valid empty list. */
void psd_actions_clear(psd_actions_t *self);

/* A payload with a copy of these bytes. Aborts when memory runs out. */
psd_buf_t *psd_payload_copy(const void *data, size_t n_bytes);

/* -- bitmaps of parts, or of the chunks of a part, as sent: bit i is bit i % 8 of byte i / 8 */
static inline size_t psd_bitmap_bytes(uint32_t n) { return ((size_t)n + 7) / 8; }
static inline int psd_bitmap_get(const uint8_t *map, uint32_t i) { return map[i / 8] >> (i % 8) & 1; }
static inline void psd_bitmap_set(uint8_t *map, uint32_t i) { map[i / 8] |= (uint8_t)(1u << (i % 8)); }
static inline void psd_bitmap_unset(uint8_t *map, uint32_t i) { map[i / 8] &= (uint8_t) ~(1u << (i % 8)); }
