/* tfevents.c - TensorFlow's record format around two of its messages, which are small enough to be written by hand:
 *   record   u64 length, u32 masked CRC-32C of it, the event, u32 masked CRC-32C of that; all little-endian
 *   Event    1: double wall_time, 2: int64 step, 3: string file_version,
 *            5: Summary of 1: Value of 1: string tag, 2: float simple_value */
#include "worker/tfevents.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/crc32c.h"

enum { MOST = 1024, VARINT = 0, EIGHT_BYTES = 1, BYTES = 2, FOUR_BYTES = 5 };

struct psd_tfevents {
    FILE *file;
    int failed; /* errno of the first write that did */
};

/* A message being written; our own names bound its length. */
typedef struct bytes {
    uint8_t at[MOST];
    size_t n;
} bytes_t;

static void put(bytes_t *out, const void *data, size_t n)
{
    assert(out->n + n <= MOST && "an event is short");
    memcpy(out->at + out->n, data, n);
    out->n += n;
}

static void put_varint(bytes_t *out, uint64_t x)
{
    for (; x >= 0x80; x >>= 7)
        put(out, &(uint8_t){ (uint8_t)(x | 0x80) }, 1);
    put(out, &(uint8_t){ (uint8_t)x }, 1);
}

static void put_field(bytes_t *out, unsigned number, unsigned type, const void *data, size_t n)
{
    put_varint(out, number << 3 | type);
    if (type == BYTES)
        put_varint(out, n);
    put(out, data, n);
}

/* A CRC of data that hold CRCs would be weak: TensorFlow turns and shifts it. */
static uint32_t masked(const void *data, size_t n)
{
    uint32_t crc = psd_crc32c(data, n);
    return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

static void write_record(psd_tfevents_t *self, const bytes_t *event)
{
    uint64_t length = event->n;
    uint32_t of_length = masked(&length, sizeof length), of_event = masked(event->at, event->n);
    static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "as the file wants it");
    if ((fwrite(&length, sizeof length, 1, self->file) != 1 ||
         fwrite(&of_length, sizeof of_length, 1, self->file) != 1 ||
         fwrite(event->at, event->n, 1, self->file) != 1 ||
         fwrite(&of_event, sizeof of_event, 1, self->file) != 1) &&
        !self->failed)
        self->failed = errno;
}

psd_tfevents_t *psd_tfevents_new(const char *dir, double unix_s, psd_err_t *err)
{
    static const char version[] = "brain.Event:2";
    char path[PATH_MAX], host[256] = "";
    gethostname(host, sizeof host - 1);
    psd_tfevents_t *self = calloc(1, sizeof *self);
    int n =
        snprintf(path, sizeof path, "%s/events.out.tfevents.%.0f.%s.%d.0", dir, unix_s, host, (int)getpid());
    errno = n < (int)sizeof path ? ENOMEM : ENAMETOOLONG;
    if (!self || n >= (int)sizeof path || !(self->file = fopen(path, "ae"))) {
        psd_err_set(err, self ? PSD_EIO : PSD_ENOMEM, "cannot write %.300s: %s", path, strerror(errno));
        free(self);
        return NULL;
    }
    bytes_t event = { .n = 0 };
    put_field(&event, 1, EIGHT_BYTES, &unix_s, sizeof unix_s);
    put_field(&event, 3, BYTES, version, sizeof version - 1);
    write_record(self, &event);
    return self;
}

void psd_tfevents_destroy(psd_tfevents_t **self_p)
{
    if (*self_p)
        fclose((*self_p)->file);
    free(*self_p);
    *self_p = NULL;
}

void psd_tfevents_add(psd_tfevents_t *self, double unix_s, uint64_t step, const psd_measure_t *measures,
                      size_t n)
{
    bytes_t event = { .n = 0 }, summary = { .n = 0 };
    for (size_t i = 0; i < n; i++) {
        bytes_t value = { .n = 0 };
        float x = (float)measures[i].value;
        put_field(&value, 1, BYTES, measures[i].name, strlen(measures[i].name));
        put_field(&value, 2, FOUR_BYTES, &x, sizeof x);
        put_field(&summary, 1, BYTES, value.at, value.n);
    }
    put_field(&event, 1, EIGHT_BYTES, &unix_s, sizeof unix_s);
    put_varint(&event, 2 << 3 | VARINT);
    put_varint(&event, step);
    put_field(&event, 5, BYTES, summary.at, summary.n);
    write_record(self, &event);
}

int psd_tfevents_flush(psd_tfevents_t *self)
{
    if (fflush(self->file) && !self->failed)
        self->failed = errno;
    return self->failed;
}
