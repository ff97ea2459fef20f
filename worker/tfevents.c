/* tfevents.c - TensorFlow's record format around its Event (tfevents.proto):
 *   u64 length, u32 masked CRC-32C of it, the event, u32 masked CRC-32C of that; all little-endian */
#include "worker/tfevents.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/crc32c.h"
#include "tfevents.pb-c.h"

enum { MOST = 2048 /* bytes of an event; our own names bound it */, MOST_VALUES = 32 };

struct psd_tfevents {
    FILE *file;
    int failed; /* errno of the first write that failed */
};

/* A CRC over data that contain CRCs would be weak, so TensorFlow masks it: it rotates it and adds a constant. */
static uint32_t masked(const void *data, size_t n)
{
    uint32_t crc = psd_crc32c(data, n);
    return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

static void write_record(psd_tfevents_t *self, const Tensorboard__Event *event)
{
    uint8_t bytes[MOST];
    assert(tensorboard__event__get_packed_size(event) <= sizeof bytes);
    const uint64_t length = tensorboard__event__pack(event, bytes);
    const uint32_t of_length = masked(&length, sizeof length), of_event = masked(bytes, length);
    static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "a file has little-endian numbers");
    if ((fwrite(&length, sizeof length, 1, self->file) != 1 || fwrite(&of_length, sizeof of_length, 1, self->file) != 1 ||
         fwrite(bytes, length, 1, self->file) != 1 || fwrite(&of_event, sizeof of_event, 1, self->file) != 1) &&
        !self->failed)
        self->failed = errno;
}

psd_tfevents_t *psd_tfevents_new(const char *dir, double unix_s, psd_err_t *err)
{
    static char version[] = "brain.Event:2";
    char path[PATH_MAX], host[256] = "";
    gethostname(host, sizeof host - 1);
    psd_tfevents_t *self = calloc(1, sizeof *self);
    int n = snprintf(path, sizeof path, "%s/events.out.tfevents.%.0f.%s.%d.0", dir, unix_s, host, (int)getpid());
    errno = n < (int)sizeof path ? ENOMEM : ENAMETOOLONG;
    if (!self || n >= (int)sizeof path || !(self->file = fopen(path, "ae"))) {
        psd_err_set(err, self ? PSD_EIO : PSD_ENOMEM, "cannot write %.300s: %s", path, strerror(errno));
        free(self);
        return NULL;
    }
    Tensorboard__Event event = TENSORBOARD__EVENT__INIT;
    event.wall_time = unix_s;
    event.what_case = TENSORBOARD__EVENT__WHAT_FILE_VERSION;
    event.file_version = version;
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

void psd_tfevents_add(psd_tfevents_t *self, double unix_s, uint64_t step, const psd_measure_t *measures, size_t n)
{
    Tensorboard__Value value[MOST_VALUES], *list[MOST_VALUES];
    Tensorboard__Summary summary = TENSORBOARD__SUMMARY__INIT;
    Tensorboard__Event event = TENSORBOARD__EVENT__INIT;
    assert(n <= MOST_VALUES);
    for (size_t i = 0; i < n; i++) {
        list[i] = &value[i];
        tensorboard__value__init(&value[i]);
        value[i].tag = (char *)(uintptr_t)measures[i].name; /* setvbuf only reads it */
        value[i].value_case = TENSORBOARD__VALUE__VALUE_SIMPLE_VALUE;
        value[i].simple_value = (float)measures[i].value;
    }
    summary.n_value = n;
    summary.value = list;
    event.wall_time = unix_s;
    event.step = (int64_t)step;
    event.what_case = TENSORBOARD__EVENT__WHAT_SUMMARY;
    event.summary = &summary;
    write_record(self, &event);
}

int psd_tfevents_flush(psd_tfevents_t *self)
{
    if (fflush(self->file) && !self->failed)
        self->failed = errno;
    return self->failed;
}
