/* keys.h - CURVE key pairs: made, kept in files, read from them, and wiped.
 *
 * A key is 32 bytes, written as 40 characters of Z85 (ZeroMQ RFC 32). A secret lives in a file that its owner
 * alone may read, NAME.key, and nowhere else: never in an argument, a variable of the environment or a line.
 * NAME.pub has the public key. Both files are lines of text; those that begin with # are remarks. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/base/err.h"

enum { PSD_KEY_BYTES = 32, PSD_KEY_TEXT = 41 };

/* What a program has to speak with. */
typedef struct psd_keys {
    bool insecure;             /* nothing: it speaks in the clear, on this machine alone */
    char public[PSD_KEY_TEXT]; /* its own pair */
    char secret[PSD_KEY_TEXT];
    char server[PSD_KEY_TEXT]; /* public key of the servers that it connects to */
} psd_keys_t;

/* Where they come from; texts may be NULL or "". */
typedef struct psd_keys_source {
    const char *secret; /* file with its own secret key */
    const char *server; /* the servers' public key, or a file with it; "": that of the own pair */
    bool insecure;
    bool server_later; /* the servers' public key is not known yet: see psd_net_trust */
    bool is_server;    /* for the sentence: which options would do */
} psd_keys_source_t;

/* Read them. PSD_ECONFIG when neither keys nor `insecure` are given, or both, when the secret's file may be
 * read by others than its owner, or when what is there is no key; PSD_ENOINPUT when a file is not there. */
int psd_keys_load(psd_keys_t *out, const psd_keys_source_t *from, psd_err_t *err);

/* A pair that nobody else has, and no server yet. */
void psd_keys_draw(psd_keys_t *self);

/* Leave nothing of the secret in this memory. */
void psd_keys_wipe(psd_keys_t *self);

/* Draw a pair and write NAME.key (for its owner alone) and NAME.pub; `public` gets the public key. PSD_EIO
 * when either is there already or cannot be written; then neither is left behind. */
int psd_keys_write(const char *name, char public[PSD_KEY_TEXT], psd_err_t *err);

enum { PSD_TOKEN_TEXT = 256 };

/* Read a token: the one line of a file that its owner alone may read, 16 to 255 visible characters. */
int psd_token_load(char token[PSD_TOKEN_TEXT], const char *path, psd_err_t *err);

/* The bytes of a key, from 40 characters that need not end there. */
bool psd_key_decode(uint8_t out[PSD_KEY_BYTES], const char *text);

/* A process that holds secrets leaves no core, and no other process of its user may look into it. */
void psd_keys_guard_process(void);
