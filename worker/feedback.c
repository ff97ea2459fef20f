#include "worker/feedback.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/optim/aggregate.h"
#include "proto/actions.h"

typedef struct part {
    float *kept;      /* of its elements: the residual, or the momentum of a rule by vote */
    float *before;    /* its value before the open exchange, once `is_changed`; NULL: not needed */
    bool is_changed;  /* by the open exchange */
    bool is_coded;    /* in the open exchange */
    psd_buf_t *aside; /* the value that was set aside */
    psd_feedback_part_t code;
} part_t;

struct psd_feedback {
    psd_rule_t rule;
    psd_coding_t coding;
    const psd_partition_t *map;
    part_t **part; /* part[s][p] */
    size_t *at;    /* of each chunk of the model: where in the payload of its part its code begins */
    float *vote;   /* room for the votes of a chunk; NULL: gradients are sent */
    const float *const *gradient;
    bool is_finite; /* the whole gradient of the open exchange */
};

static bool make_part(psd_feedback_t *self, uint32_t s, uint32_t p, bool is_saved)
{
    part_t *part = &self->part[s][p];
    size_t at = 0;
    for (uint32_t i = 0; i < self->map->part[s][p].n_chunks; i++) {
        const psd_chunk_t *c = psd_partition_at(self->map, s, p, i);
        self->at[c - self->map->chunk] = at;
        at += psd_coding_bytes(&self->coding, c->n);
    }
    part->kept = calloc(self->map->part[s][p].n, sizeof(float));
    if (is_saved)
        part->before = calloc(self->map->part[s][p].n, sizeof(float));
    return part->kept && (part->before || !is_saved);
}

static uint32_t longest_chunk(const psd_partition_t *map)
{
    uint32_t n = 0;
    for (uint32_t k = 0; k < map->n_chunks; k++)
        n = map->chunk[k].n > n ? map->chunk[k].n : n;
    return n;
}

bool psd_feedback_is_needed(const psd_rule_t *rule, const psd_coding_t *coding)
{
    return psd_rule_votes(rule) || !psd_coding_is_lossless(coding);
}

psd_feedback_t *psd_feedback_new(const psd_rule_t *rule, const psd_coding_t *coding, const psd_partition_t *map, bool is_saved,
                                 psd_err_t *err)
{
    assert(psd_feedback_is_needed(rule, coding) && "a lossless code needs no feedback");
    psd_feedback_t *self = calloc(1, sizeof *self);
    if (self)
        *self = (psd_feedback_t){ .rule = *rule,
                                  .coding = *coding,
                                  .map = map,
                                  .part = calloc(map->n_servers, sizeof *self->part),
                                  .at = calloc(map->n_chunks, sizeof *self->at) };
    bool ok = self && self->part && self->at;
    if (ok && psd_rule_votes(rule))
        ok = (self->vote = calloc((size_t)longest_chunk(map) + 1, sizeof *self->vote)) != NULL;
    for (uint32_t s = 0; ok && s < map->n_servers; s++) {
        ok = (self->part[s] = calloc((size_t)map->n_parts[s] + 1, sizeof **self->part)) != NULL;
        for (uint32_t p = 0; ok && p < map->n_parts[s]; p++)
            ok = make_part(self, s, p, is_saved);
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
            psd_buf_unref(&self->part[s][p].aside);
            free(self->part[s][p].kept);
            free(self->part[s][p].before);
        }
        free(self->part[s]);
    }
    free(self->part);
    free(self->at);
    free(self->vote);
    free(self);
}

void psd_feedback_close(psd_feedback_t *self)
{
    for (uint32_t s = 0; s < self->map->n_servers; s++)
        for (uint32_t p = 0; p < self->map->n_parts[s]; p++) {
            part_t *part = &self->part[s][p];
            psd_buf_unref(&part->code.payload);
            part->code = (psd_feedback_part_t){ 0 };
            part->is_coded = part->is_changed = false;
        }
    self->gradient = NULL;
}

static const float *gradient_of(const psd_feedback_t *self, const psd_chunk_t *c)
{
    return self->gradient[c->tensor] ? self->gradient[c->tensor] + c->offset : NULL;
}

static bool can_say(const psd_feedback_t *self, const psd_chunk_t *c, const float *g)
{
    if (self->vote)
        return isfinite(psd_sum_of_squares(g, c->n));
    return psd_coding_can_say(&self->coding, g, self->part[c->server][c->part].kept + c->at, c->n);
}

bool psd_feedback_open(psd_feedback_t *self, const float *const *gradient)
{
    psd_feedback_close(self);
    self->gradient = gradient;
    self->is_finite = true;
    for (uint32_t k = 0; self->is_finite && k < self->map->n_chunks; k++) {
        const psd_chunk_t *c = &self->map->chunk[k];
        const float *g = gradient_of(self, c);
        self->is_finite = !g || can_say(self, c, g);
    }
    return self->is_finite;
}

/* Mark the chunks of a part that have a gradient; return their number. */
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

/* Call before the state of a part changes. */
static void remember(part_t *part, size_t n)
{
    part->is_changed = true;
    if (part->before)
        memcpy(part->before, part->kept, n * sizeof *part->kept);
}

/* Encode a chunk's gradient `g`, or its votes, which leave no residual. */
static void encode_chunk(psd_feedback_t *self, const psd_chunk_t *c, const float *g, float *kept, uint8_t *code)
{
    if (self->vote)
        psd_rule_vote(&self->rule, self->vote, kept, g, c->n);
    psd_coding_encode(&self->coding, self->vote ? self->vote : g, self->vote ? NULL : kept, c->n, code);
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
    remember(part, cut->n);
    for (uint32_t i = 0; i < cut->n_chunks; i++) {
        const psd_chunk_t *c = psd_partition_at(self->map, s, p, i);
        const float *g = self->is_finite ? gradient_of(self, c) : NULL;
        if (g)
            encode_chunk(self, c, g, part->kept + c->at, code);
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
static double squares_of(const psd_coding_t *coding, const psd_group_t *group, const psd_clip_t *clip, const uint8_t *code,
                         size_t n)
{
    enum { BLOCK = 16 * PSD_CODEC_BLOCK };
    float block[BLOCK];
    double sum = 0;
    for (size_t at = 0, count; at < n; at += count) {
        count = n - at < BLOCK ? n - at : BLOCK;
        psd_coding_decode(coding, code, n, at, count, block);
        sum += psd_group_squares(group, clip, block, count);
    }
    return sum;
}

double psd_feedback_squares(psd_feedback_t *self, const psd_clip_t *clip, const psd_groups_t *groups, const uint8_t *group_of)
{
    double sum = 0;
    for (uint32_t k = 0; k < self->map->n_chunks; k++) {
        const psd_chunk_t *c = &self->map->chunk[k];
        const psd_buf_t *payload = psd_feedback_part(self, c->server, c->part).payload;
        if (!payload || !gradient_of(self, c))
            continue;
        sum +=
            squares_of(&self->coding, &groups->at[group_of[c->tensor]], clip, (const uint8_t *)payload->data + self->at[k], c->n);
    }
    return sum;
}

void psd_feedback_set_aside(psd_feedback_t *self, uint32_t s, bool with_open)
{
    for (uint32_t p = 0; p < self->map->n_parts[s]; p++) {
        part_t *part = &self->part[s][p];
        const float *from = part->is_changed && !with_open ? part->before : part->kept;
        assert(from && "made to be saved");
        psd_buf_unref(&part->aside);
        part->aside = psd_payload_copy(from, self->map->part[s][p].n * sizeof *from);
    }
}

psd_buf_t *psd_feedback_aside(const psd_feedback_t *self, uint32_t s, uint32_t p) { return self->part[s][p].aside; }

void psd_feedback_drop_aside(psd_feedback_t *self, uint32_t s)
{
    for (uint32_t p = 0; p < self->map->n_parts[s]; p++)
        psd_buf_unref(&self->part[s][p].aside);
}

void psd_feedback_take(psd_feedback_t *self, uint32_t s, uint32_t p, const float *kept)
{
    assert(!self->gradient && "no exchange is open");
    memcpy(self->part[s][p].kept, kept, self->map->part[s][p].n * sizeof *kept);
}

void psd_feedback_reset(psd_feedback_t *self)
{
    assert(!self->gradient && "no exchange is open");
    for (uint32_t s = 0; s < self->map->n_servers; s++)
        for (uint32_t p = 0; p < self->map->n_parts[s]; p++)
            memset(self->part[s][p].kept, 0, self->map->part[s][p].n * sizeof(float));
}
