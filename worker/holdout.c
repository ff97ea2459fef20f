#include "worker/holdout.h"

#include <stdlib.h>
#include <string.h>

#include "worker/draw.h"

static void *copy_room(size_t n, size_t bytes, bool *lost)
{
    void *room = calloc(n ? n : 1, bytes);
    *lost = *lost || !room;
    return room;
}

static size_t values_of(const psd_dataset_t *set, size_t row)
{
    return set->row_start ? (size_t)(set->row_start[row + 1] - set->row_start[row]) : set->n_features;
}

/* Room for `n_rows` rows with `n_values` values in all; everything else is as in `set`. NULL: no memory. */
static psd_dataset_t *make_like(const psd_dataset_t *set, size_t n_rows, size_t n_values)
{
    bool lost = false;
    psd_dataset_t *self = copy_room(1, sizeof *self, &lost);
    if (lost)
        return NULL;
    *self = *set;
    self->n_rows = 0;
    self->label = self->weight = self->dense = self->value = NULL;
    self->pixels = NULL;
    self->row_start = NULL;
    self->column = NULL;
    self->encoding = NULL;
    self->label = copy_room(n_rows, sizeof *self->label, &lost);
    if (set->weight)
        self->weight = copy_room(n_rows, sizeof *self->weight, &lost);
    if (set->pixels)
        self->pixels = copy_room(n_values, sizeof *self->pixels, &lost);
    if (set->dense)
        self->dense = copy_room(n_values, sizeof *self->dense, &lost);
    if (set->row_start) {
        self->row_start = copy_room(n_rows + 1, sizeof *self->row_start, &lost);
        self->column = copy_room(n_values, sizeof *self->column, &lost);
        self->value = copy_room(n_values, sizeof *self->value, &lost);
    }
    if (lost)
        psd_dataset_destroy(&self);
    return self;
}

static void append_row(psd_dataset_t *self, const psd_dataset_t *set, size_t row)
{
    const size_t n = values_of(set, row), to = self->n_rows,
                 from_at = set->row_start ? (size_t)set->row_start[row] : row * set->n_features,
                 to_at = self->row_start ? (size_t)self->row_start[to] : to * set->n_features;
    self->label[to] = set->label[row];
    if (set->weight)
        self->weight[to] = set->weight[row];
    if (set->pixels)
        memcpy(self->pixels + to_at, set->pixels + from_at, n * sizeof *self->pixels);
    if (set->dense)
        memcpy(self->dense + to_at, set->dense + from_at, n * sizeof *self->dense);
    if (set->row_start) {
        memcpy(self->column + to_at, set->column + from_at, n * sizeof *self->column);
        memcpy(self->value + to_at, set->value + from_at, n * sizeof *self->value);
        self->row_start[to + 1] = to_at + n;
    }
    self->n_rows++;
}

psd_dataset_t *psd_holdout_take(psd_dataset_t **train_p, double share, uint64_t seed, psd_err_t *err)
{
    const psd_dataset_t *set = *train_p;
    const size_t n = psd_draw_count(share, set->n_rows);
    size_t n_values = 0;
    psd_dataset_t *out = NULL, *rest = NULL;
    if (!(share > 0 && share < 1) || n >= set->n_rows) {
        psd_err_set(err, PSD_ECONFIG, "data.validation=%.3g leaves none of the %zu rows to train on; make it smaller", share,
                    set->n_rows);
        return NULL;
    }
    bool *held = psd_draw_rows(set->n_rows, n, seed);
    for (size_t i = 0; held && i < set->n_rows; i++)
        n_values += held[i] ? values_of(set, i) : 0;
    if (held) {
        const size_t all = set->row_start ? (size_t)set->row_start[set->n_rows] : set->n_rows * set->n_features;
        out = make_like(set, n, n_values);
        rest = make_like(set, set->n_rows - n, all - n_values);
    }
    for (size_t i = 0; out && rest && i < set->n_rows; i++)
        append_row(held[i] ? out : rest, set, i);
    free(held);
    if (out && rest) {
        rest->encoding = (*train_p)->encoding;
        (*train_p)->encoding = NULL;
        psd_dataset_destroy(train_p);
        *train_p = rest;
        return out;
    }
    psd_dataset_destroy(&out);
    psd_dataset_destroy(&rest);
    psd_err_set(err, PSD_ENOMEM, "no memory to hold out %zu rows", n);
    return NULL;
}
