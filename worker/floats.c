#include "worker/floats.h"

#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/array.h"

struct psd_floats {
    psd_arena_t *arena;
    psd_buf_t **array;
    size_t n, room;
};

psd_floats_t *psd_floats_new(void)
{
    psd_floats_t *self = calloc(1, sizeof *self);
    if (self && !(self->arena = psd_arena_new(SIZE_MAX / 2, NULL)))
        psd_floats_destroy(&self);
    return self;
}

void psd_floats_destroy(psd_floats_t **self_p)
{
    psd_floats_t *self = *self_p;
    *self_p = NULL;
    if (!self)
        return;
    while (self->n)
        psd_buf_unref(&self->array[--self->n]);
    free(self->array);
    psd_arena_destroy(&self->arena);
    free(self);
}

psd_arena_t *psd_floats_arena(const psd_floats_t *self) { return self->arena; }

float *psd_floats_take(psd_floats_t *self, size_t n)
{
    n = n ? n : 1;
    if (n > SIZE_MAX / 2 / sizeof(float) ||
        psd_array_grow(&self->array, &self->room, self->n + 1, sizeof *self->array, NULL) != PSD_OK)
        return NULL;
    psd_buf_t *array = psd_arena_new_buf(self->arena, n * sizeof(float));
    if (!array)
        array = psd_buf_new(n * sizeof(float));
    if (!array)
        return NULL;
    memset(array->data, 0, array->n_bytes);
    self->array[self->n++] = array;
    return array->data;
}

static size_t index_of(const psd_floats_t *self, const float *array)
{
    size_t i = 0;
    while (i < self->n && self->array[i]->data != array)
        i++;
    return i;
}

size_t psd_floats_size(const psd_floats_t *self, const float *array)
{
    const size_t i = index_of(self, array);
    return i < self->n ? self->array[i]->n_bytes / sizeof(float) : 0;
}

void psd_floats_give_back(psd_floats_t *self, const float *array)
{
    const size_t i = index_of(self, array);
    assert(i < self->n && "an array of these");
    psd_buf_unref(&self->array[i]);
    self->array[i] = self->array[--self->n];
}
