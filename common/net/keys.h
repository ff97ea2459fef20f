/* keys.h - makes, stores, reads and wipes CURVE key pairs.
 *
 * A key is 32 bytes, written as 40 characters of Z85 (ZeroMQ RFC 32). A secret is stored only in a file that only its owner may
 * read, NAME.key: never in an argument, an environment variable or a log line. NAME.pub has the public key. Both are text files;
 * lines that begin with # are comments. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/base/err.h"

enum { PSD_KEY_BYTES = 32, PSD_KEY_TEXT = 41 };

/* The keys of a program. */
typedef struct psd_keys {
    bool insecure;             /* no keys: connections are unencrypted, and only on this machine */
    char public[PSD_KEY_TEXT]; /* its key pair */
    char secret[PSD_KEY_TEXT];
    char server[PSD_KEY_TEXT]; /* public key of the servers that it connects to */
} psd_keys_t;

/* The sources of the keys; texts may be NULL or "". */
typedef struct psd_keys_source {
    const char *secret; /* file with its secret key */
    const char *server; /* the servers' public key, or a file with it; "": the public key of its own pair */
    bool insecure;
    bool server_later; /* the servers' public key is not known yet: see psd_net_trust */
    bool is_server;    /* for errors: the options of a server */
} psd_keys_source_t;

/* Read them. PSD_ECONFIG when neither keys nor `insecure` are given, or both, when anyone but its owner may read the secret's file,
 * or when a file has no key; PSD_ENOINPUT when a file does not exist. */
int psd_keys_load(psd_keys_t *out, const psd_keys_source_t *from, psd_err_t *err);

/* Make a new pair, without a server's key. */
void psd_keys_draw(psd_keys_t *self);

/* Wipe the secret from this memory. */
void psd_keys_wipe(psd_keys_t *self);

/* Draw a pair and write NAME.key (readable only by its owner) and NAME.pub; `public` gets the public key. PSD_EIO when either
 * exists already or cannot be written; then it writes neither. */
int psd_keys_write(const char *name, char public[PSD_KEY_TEXT], psd_err_t *err);

enum { PSD_TOKEN_TEXT = 256 };

/* Read a token: a file of one line of 16 to 255 visible characters, which only its owner may read. */
int psd_token_load(char token[PSD_TOKEN_TEXT], const char *path, psd_err_t *err);

/* Decode a key from the 40 characters at `text`, which may continue. */
bool psd_key_decode(uint8_t out[PSD_KEY_BYTES], const char *text);

/* Protect a process with secrets: it writes no core dump, and other processes of its user cannot inspect its memory. */
void psd_keys_guard_process(void);
