/* safetensors.h - arrays as one file that other tools open: 8 bytes of header length, a JSON header, the arrays as they lie in
 * memory. Written with data at a multiple of 4096; read as untrusted input. Jansson reads the header and quotes its strings; this
 * module composes the rest, because parts of it have a fixed width and place, and are filled in when the data are known. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"

enum { PSD_ENTRY_DIMS = 8, PSD_MAX_ST_HEADER = 64 << 20 /* bytes of JSON, written or read */ };

/* A pair of the header's __metadata__. */
typedef struct psd_note {
    const char *key, *value;
} psd_note_t;

/* -- a header that is being written: begin with the notes, add float32 arrays in the order of their data,
 * end. */
typedef struct psd_header {
    char *bytes;     /* the beginning of the file; free() it in any case */
    size_t n_bytes;  /* of them; a multiple of 4096 after the end */
    uint64_t n_data; /* bytes of the arrays so far */
    size_t room;     /* bytes allocated */
    int code;        /* PSD_OK, or the first failure */
} psd_header_t;

void psd_header_begin(psd_header_t *self, const psd_note_t *notes, size_t n_notes);
void psd_header_add(psd_header_t *self, const char *name, const uint64_t *shape, size_t n_dims);
/* The same of a single float64. */
void psd_header_add_number(psd_header_t *self, const char *name);

/* PSD_ENOMEM; PSD_EINVAL for a name or note that is not UTF-8 and for a header above the limit. */
int psd_header_end(psd_header_t *self, psd_err_t *err);

/* -- a whole file of float32 tensors */
typedef struct psd_saved {
    const char *name;      /* unique */
    const uint64_t *shape; /* n_dims sizes */
    size_t n_dims;
    const float *data; /* product(shape) elements, row-major */
    size_t n;          /* that product */
} psd_saved_t;

/* Write the tensors to `path`: a temporary file beside it, flushed to disk, then renamed over it. PSD_EIO, and `path` is unchanged;
 * PSD_ENOMEM. */
int psd_safetensors_write(const char *path, const psd_saved_t *tensors, size_t n_tensors, const psd_note_t *notes, size_t n_notes,
                          psd_err_t *err);

/* -- a file that is read. Every part of it is checked before it is used. */
typedef struct psd_entry {
    const char *name, *dtype;
    size_t n_dims;
    uint64_t shape[PSD_ENTRY_DIMS];
    uint64_t begin, end; /* offsets of its bytes, from the beginning of the data */
} psd_entry_t;

typedef struct psd_safetensors {
    int fd;          /* the open file, -1 for none */
    char *path;      /* for messages */
    uint8_t *bytes;  /* length and header as they are in the file */
    size_t n_bytes;  /* of them: where data begin */
    uint64_t n_data; /* bytes of data */
    size_t n_entries;
    psd_entry_t *entry; /* in the order of their data */
    size_t n_notes;
    psd_note_t *note;
    void *owner; /* of all those strings */
} psd_safetensors_t;

/* Open the file and read its header's bytes, which fit the file; entries and notes stay empty. PSD_ENOINPUT
 * when there is no such file, PSD_EIO, PSD_EDATA, PSD_ENOMEM; close it in any case. */
int psd_safetensors_open(psd_safetensors_t *out, const char *path, psd_err_t *err);

/* Read entries and notes out of `bytes`: a JSON object without repeated keys; known types; shapes whose
 * product is the length; arrays that cover the data without hole and overlap. PSD_EDATA with the file and the
 * first flaw. */
int psd_safetensors_parse(psd_safetensors_t *self, psd_err_t *err);

/* Read an entry's bytes. PSD_EIO; PSD_EDATA when the file has become shorter. Any thread. */
int psd_safetensors_read(const psd_safetensors_t *self, const psd_entry_t *entry, void *to, psd_err_t *err);

/* The note's value; NULL when there is none of that key. */
const char *psd_safetensors_note(const psd_safetensors_t *self, const char *key);

/* Free everything; all zero but for fd -1 is fine. */
void psd_safetensors_close(psd_safetensors_t *self);

/* The index of the first value that is Inf or NaN; `n` when all are finite. */
size_t psd_first_nonfinite(const float *values, size_t n);

/* Whether every element is finite. PSD_EDIVERGED naming the first tensor, and the element, that is not. */
int psd_weights_look(const psd_saved_t *tensors, size_t n_tensors, psd_err_t *err);

enum { PSD_SHA256_TEXT = 65 /* 64 hexadecimal digits and the end */ };

/* SHA-256 of only the elements, one tensor after the other, as little-endian float32. Returns `text`. */
char *psd_weights_sha256(const psd_saved_t *tensors, size_t n_tensors, char text[PSD_SHA256_TEXT]);
