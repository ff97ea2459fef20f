#include "worker/feedback.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "proto/actions.h"

typedef struct part {
    float *residual; /* of its elements */
    bool is_coded;   /* in the open exchange */
    psd_feedback_part_t code;
} part_t;

struct psd_feedback {
    psd_coding_t coding;
    const psd_partition_t *map;
    part_t **part; /* part[s][p] */
    size_t *at;    /* of each chunk of the model: where in the payload of its part its code begins */
    const float *const *gradient;
    bool is_finite; /* all of the open exchange's gradient */
};

static bool make_part(psd_feedback_t *self, uint32_t s, uint32_t p)
{
    size_t at = 0;
    for (uint32_t i = 0; i < self->map->part[s][p].n_chunks; i++) {
        const psd_chunk_t *c = psd_partition_at(self->map, s, p, i);
        self->at[c - self->map->chunk] = at;
        at += psd_coding_bytes(&self->coding, c->n);
    }
    self->part[s][p].residual = calloc(self->map->part[s][p].n, sizeof(float));
    return self->part[s][p].residual != NULL;
}

psd_feedback_t *psd_feedback_new(const psd_coding_t *coding, const psd_partition_t *map, psd_err_t *err)
{
    assert(!psd_coding_is_lossless(coding) && "what loses nothing leaves nothing to add");
    psd_feedback_t *self = calloc(1, sizeof *self);
    if (self)
        *self = (psd_feedback_t){ .coding = *coding,
                                  .map = map,
                                  .part = calloc(map->n_servers, sizeof *self->part),
                                  .at = calloc(map->n_chunks, sizeof *self->at) };
    bool ok = self && self->part && self->at;
    for (uint32_t s = 0; ok && s < map->n_servers; s++) {
        ok = (self->part[s] = calloc((size_t)map->n_parts[s] + 1, sizeof **self->part)) != NULL;
        for (uint32_t p = 0; ok && p < map->n_parts[s]; p++)
            ok = make_part(self, s, p);
    }
    if (!ok) {
        psd_err_set(err, PSD_ENOMEM, "no memory for the residuals of %u chunks", map->n_chunks);
        psd_feedback_destroy(&self);
    }
    return self;
}

void psd_feedback_destroy(psd_feedback_t **self_p)
{
    psd_feedback_t *self = *self_p;
    *self_p = NULL;
    if (!self)
        return;
    for (uint32_t s = 0; self->part && s < self->map->n_servers; s++) {
        for (uint32_t p = 0; self->part[s] && p < self->map->n_parts[s]; p++) {
            psd_buf_unref(&self->part[s][p].code.payload);
            free(self->part[s][p].residual);
        }
        free(self->part[s]);
    }
    free(self->part);
    free(self->at);
    free(self);
}

void psd_feedback_close(psd_feedback_t *self)
{
    for (uint32_t s = 0; s < self->map->n_servers; s++)
        for (uint32_t p = 0; p < self->map->n_parts[s]; p++) {
            part_t *part = &self->part[s][p];
            psd_buf_unref(&part->code.payload);
            *part = (part_t){ .residual = part->residual };
        }
    self->gradient = NULL;
}

static const float *gradient_of(const psd_feedback_t *self, const psd_chunk_t *c)
{
    return self->gradient[c->tensor] ? self->gradient[c->tensor] + c->offset : NULL;
}

bool psd_feedback_open(psd_feedback_t *self, const float *const *gradient)
{
    psd_feedback_close(self);
    self->gradient = gradient;
    self->is_finite = true;
    for (uint32_t k = 0; self->is_finite && k < self->map->n_chunks; k++) {
        const psd_chunk_t *c = &self->map->chunk[k];
        const float *g = gradient_of(self, c);
        self->is_finite = !g || psd_coding_can_say(&self->coding, g, self->part[c->server][c->part].residual + c->at, c->n);
    }
    return self->is_finite;
}

/* Mark the chunks of a part that have a gradient; how many. */
static uint32_t mark(const psd_feedback_t *self, uint32_t s, uint32_t p, uint8_t *map)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < self->map->part[s][p].n_chunks; i++)
        if (gradient_of(self, psd_partition_at(self->map, s, p, i))) {
            psd_bitmap_set(map, i);
            n++;
        }
    return n;
}

static void encode(psd_feedback_t *self, uint32_t s, uint32_t p)
{
    const psd_part_t *cut = &self->map->part[s][p];
    part_t *part = &self->part[s][p];
    uint8_t map[PSD_MOST_OF_PART / 8] = { 0 };
    const uint32_t n_with = mark(self, s, p, map);
    if (!n_with)
        return;
    const size_t n_codes = psd_coded_bytes(&self->coding, self->map, s, p), n_map = psd_bitmap_bytes(cut->n_chunks);
    const bool has_bitmap = n_with < cut->n_chunks;
    psd_buf_t *payload = psd_buf_new(n_codes + (has_bitmap ? n_map : 0));
    assert(payload && "no memory for a message");
    uint8_t *code = payload->data;
    for (uint32_t i = 0; i < cut->n_chunks; i++) {
        const psd_chunk_t *c = psd_partition_at(self->map, s, p, i);
        const float *g = self->is_finite ? gradient_of(self, c) : NULL;
        if (g)
            psd_coding_encode(&self->coding, g, part->residual + c->at, c->n, code);
        else
            memset(code, 0, psd_coding_bytes(&self->coding, c->n));
        code += psd_coding_bytes(&self->coding, c->n);
    }
    if (has_bitmap)
        memcpy(code, map, n_map);
    part->code = (psd_feedback_part_t){ payload, has_bitmap };
}

psd_feedback_part_t psd_feedback_part(psd_feedback_t *self, uint32_t s, uint32_t p)
{
    part_t *part = &self->part[s][p];
    assert(self->gradient && "an exchange is open");
    if (!part->is_coded)
        encode(self, s, p);
    part->is_coded = true;
    return part->code;
}

/* The sum of squares of a chunk, block by block. */
static double squares_of(const psd_coding_t *coding, const psd_clip_t *clip, const uint8_t *code, size_t n)
{
    enum { BLOCK = 16 * PSD_CODEC_BLOCK };
    float block[BLOCK];
    double sum = 0;
    for (size_t at = 0, count; at < n; at += count) {
        count = n - at < BLOCK ? n - at : BLOCK;
        psd_coding_decode(coding, code, n, at, count, block);
        sum += psd_clip_sum_of_squares(clip, block, count);
    }
    return sum;
}

double psd_feedback_squares(psd_feedback_t *self, const psd_clip_t *clip)
{
    double sum = 0;
    for (uint32_t k = 0; k < self->map->n_chunks; k++) {
        const psd_chunk_t *c = &self->map->chunk[k];
        const psd_buf_t *payload = psd_feedback_part(self, c->server, c->part).payload;
        if (!payload || !gradient_of(self, c))
            continue;
        sum += squares_of(&self->coding, clip, (const uint8_t *)payload->data + self->at[k], c->n);
    }
    return sum;
}
