#include "server/checkpoint/shardfile.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/config/number.h"
#include "server/checkpoint/seal.h"

enum {
    LENGTH = 8,            /* bytes of a safetensors header's length */
    CRC = PSD_SEAL_DIGITS, /* digits of a CRC */
    WORD = 16,             /* digits of a 64-bit number */
    STATE = 4 * WORD,      /* digits of a chunk's state */
    ROW = 8 + 2 * WORD,    /* digits of a row of the applied table */
    ENTRY_TEXT = PSD_MAX_NAME + 80
};

_Static_assert(STATE == (2 + PSD_MAX_SCALAR) * WORD, "a state is written whole");

#define FORMAT "1"

/* The header begins with this, so that its CRC has a place that needs no parsing. */
static const char opening[] = "{\"__metadata__\":{\"psd.crc\":\"";

static uint64_t bits(double value)
{
    uint64_t word;
    memcpy(&word, &value, sizeof word);
    return word;
}

/* ---- names ---- */

/* "fc1.weight[0:1024]", "fc1.weight[0:1024]/exp_avg" */
static void name_array(char text[ENTRY_TEXT], const psd_tensor_list_t *model, const psd_chunk_t *c, const psd_rule_t *rule,
                       int array)
{
    snprintf(text, ENTRY_TEXT, "%s[%" PRIu64 ":%" PRIu64 "]%s%s", model->tensor[c->tensor].name, c->offset, c->offset + c->n,
             array ? "/" : "", array ? rule->slot[array - 1].name : "");
}

/* ---- writing ---- */

static char *zeros(size_t n)
{
    char *text = malloc(n + 1);
    if (text) {
        memset(text, '0', n);
        text[n] = '\0';
    }
    return text;
}

static char *applied_text(const psd_ckpt_facts_t *facts)
{
    char *text = zeros((size_t)facts->n_applied * ROW);
    for (uint32_t i = 0; text && i < facts->n_applied; i++) {
        char *row = text + (size_t)i * ROW;
        psd_seal_put(row, 8, facts->applied[i].worker);
        psd_seal_put(row + 8, WORD, facts->applied[i].incarnation);
        psd_seal_put(row + 8 + WORD, WORD, facts->applied[i].clock);
    }
    return text;
}

static void begin_header(psd_header_t *header, const psd_ckpt_facts_t *facts, const psd_rule_t *rule, const char *applied,
                         const char *state, const char *data_crc)
{
    char rule_text[PSD_RULE_TEXT], lr[PSD_NUMBER_TEXT], number[5][24];
    const uint64_t value[5] = { facts->clock, facts->version, facts->view_id, facts->shard, facts->n_shards };
    for (int i = 0; i < 5; i++)
        snprintf(number[i], sizeof number[i], "%" PRIu64, value[i]);
    const psd_note_t notes[] = {
        { "psd.crc", "00000000" },
        { "psd.format", FORMAT },
        { "psd.job", facts->job },
        { "psd.settings", facts->settings },
        { "psd.rule", psd_rule_print(rule, rule_text) },
        { "psd.lr", psd_number_print(facts->lr, lr) },
        { "psd.clock", number[0] },
        { "psd.version", number[1] },
        { "psd.view", number[2] },
        { "psd.shard", number[3] },
        { "psd.shards", number[4] },
        { "psd.applied", applied },
        { "psd.state", state },
        { "psd.data_crc", data_crc },
    };
    psd_header_begin(header, notes, sizeof notes / sizeof *notes);
}

/* Where a note's value is. What users wrote cannot look like this: quotes in it are escaped. */
static char *place(const psd_header_t *header, const char *key)
{
    char pattern[32];
    int n = snprintf(pattern, sizeof pattern, "\"%s\":\"", key);
    char *at = memmem(header->bytes + LENGTH, header->n_bytes - LENGTH, pattern, (size_t)n);
    assert(at);
    return at + n;
}

int psd_shardfile_header(psd_header_t *header, psd_shardfile_places_t *places, const psd_ckpt_facts_t *facts,
                         const psd_tensor_list_t *model, const psd_partition_t *map, const psd_rule_t *rule, psd_err_t *err)
{
    char name[ENTRY_TEXT];
    const size_t n_parts = map->n_held[facts->shard], n_arrays = 1 + (size_t)rule->n_slots;
    char *applied = applied_text(facts), *state = zeros(n_parts * STATE), *crcs = zeros(n_parts * n_arrays * CRC);
    *header = (psd_header_t){ .code = PSD_ENOMEM };
    if (applied && state && crcs)
        begin_header(header, facts, rule, applied, state, crcs);
    free(applied);
    free(state);
    free(crcs);
    for (size_t p = 0; p < n_parts; p++)
        for (int a = 0; a < (int)n_arrays; a++) {
            const psd_chunk_t *c = &map->chunk[map->held[facts->shard][p]];
            name_array(name, model, c, rule, a);
            psd_header_add(header, name, &(const uint64_t){ c->n }, 1);
        }
    int rc = psd_header_end(header, err);
    if (rc == PSD_OK)
        *places = (psd_shardfile_places_t){ place(header, "psd.crc"), place(header, "psd.state"), place(header, "psd.data_crc") };
    return rc;
}

void psd_shardfile_set(const psd_shardfile_places_t *places, uint32_t part, const psd_rule_state_t *state, const uint32_t *crc,
                       uint32_t n_arrays)
{
    char *at = places->state + (size_t)part * STATE;
    psd_seal_put(at, WORD, state->t);
    psd_seal_put(at + WORD, WORD, state->sync_epoch);
    for (int i = 0; i < PSD_MAX_SCALAR; i++)
        psd_seal_put(at + (2 + i) * WORD, WORD, bits(state->scalar[i]));
    at = places->data_crc + (size_t)part * n_arrays * CRC;
    for (uint32_t i = 0; i < n_arrays; i++)
        psd_seal_put(at + (size_t)i * CRC, CRC, crc[i]);
}

/* ---- reading ---- */

static int bad(const psd_shardfile_t *self, const char *what, psd_err_t *err)
{
    return psd_err_set(err, PSD_EDATA, "%s: %s", self->st.path, what);
}

/* A decimal number below PSD_MAX_COUNT, as it is written. */
static bool get_count(const psd_shardfile_t *self, const char *key, uint64_t *out)
{
    char again[24];
    const char *text = psd_safetensors_note(&self->st, key);
    *out = text ? strtoull(text, NULL, 10) : 0;
    snprintf(again, sizeof again, "%" PRIu64, *out);
    return text && *out < PSD_MAX_COUNT && strcmp(text, again) == 0;
}

static bool get_text(const psd_shardfile_t *self, const char *key, char **out)
{
    const char *text = psd_safetensors_note(&self->st, key);
    return text && (*out = strdup(text));
}

static bool get_real(const psd_shardfile_t *self, const char *key, double *out)
{
    const char *text = psd_safetensors_note(&self->st, key);
    return text && *text && psd_number_read(text, out) == strlen(text);
}

static int read_applied(psd_shardfile_t *self, psd_err_t *err)
{
    const char *text = psd_safetensors_note(&self->st, "psd.applied");
    const size_t n = text ? strlen(text) : 1, n_rows = n / ROW;
    if (n % ROW != 0 || n_rows > PSD_MAX_WORKERS)
        return bad(self, "psd.applied is no table of workers", err);
    if (!(self->facts.applied = calloc(n_rows + 1, sizeof *self->facts.applied)))
        return psd_err_set(err, PSD_ENOMEM, "no memory for %zu workers", n_rows);
    for (size_t i = 0; i < n_rows; i++, text += ROW) {
        psd_applied_t *row = &self->facts.applied[i];
        uint64_t worker;
        if (!psd_seal_get(text, 8, &worker) || !psd_seal_get(text + 8, WORD, &row->incarnation) ||
            !psd_seal_get(text + 8 + WORD, WORD, &row->clock) || (i && worker <= row[-1].worker))
            return bad(self, "psd.applied is no table of workers", err);
        row->worker = (uint32_t)worker;
    }
    self->facts.n_applied = (uint32_t)n_rows;
    return PSD_OK;
}

static int read_facts(psd_shardfile_t *self, psd_err_t *err)
{
    psd_ckpt_facts_t *facts = &self->facts;
    uint64_t shard, n_shards;
    const char *format = psd_safetensors_note(&self->st, "psd.format");
    const char *rule = psd_safetensors_note(&self->st, "psd.rule");
    if (!format || strcmp(format, FORMAT) != 0)
        return bad(self, "not of format " FORMAT ", the one that this psd reads", err);
    if (!get_text(self, "psd.job", &facts->job) || !get_text(self, "psd.settings", &facts->settings) ||
        !get_count(self, "psd.clock", &facts->clock) || !get_count(self, "psd.version", &facts->version) ||
        !get_count(self, "psd.view", &facts->view_id) || !get_count(self, "psd.shard", &shard) ||
        !get_count(self, "psd.shards", &n_shards) || !get_real(self, "psd.lr", &facts->lr))
        return bad(self, "a psd note is missing or no number", err);
    if (n_shards > PSD_MAX_SERVERS || shard >= n_shards)
        return psd_err_set(err, PSD_EDATA, "%s: shard %" PRIu64 " of %" PRIu64, self->st.path, shard, n_shards);
    facts->shard = (uint32_t)shard;
    facts->n_shards = (uint32_t)n_shards;
    if (!rule || psd_rule_parse(&self->rule, rule, err) != PSD_OK)
        return bad(self, "psd.rule is no rule that this psd knows", err);
    return read_applied(self, err);
}

/* Entries make whole groups, and there are as many numbers as groups. */
static int check_groups(psd_shardfile_t *self, psd_err_t *err)
{
    const size_t n_arrays = 1 + (size_t)self->rule.n_slots, n_groups = self->st.n_entries / n_arrays;
    const char *state = psd_safetensors_note(&self->st, "psd.state");
    const char *crcs = psd_safetensors_note(&self->st, "psd.data_crc");
    if (self->st.n_entries % n_arrays != 0 || n_groups > PSD_MAX_PARTS)
        return bad(self, "its entries are not one per chunk and array of its rule", err);
    if (!state || strlen(state) != n_groups * STATE || !crcs || strlen(crcs) != self->st.n_entries * CRC)
        return bad(self, "psd.state or psd.data_crc is not as long as its chunks are many", err);
    self->n_parts = (uint32_t)n_groups;
    return PSD_OK;
}

int psd_shardfile_parse(psd_shardfile_t *self, bool only_crc, psd_err_t *err)
{
    const size_t n_opening = sizeof opening - 1;
    const char *bytes = (const char *)self->st.bytes;
    if (self->st.n_bytes < LENGTH + n_opening + CRC || memcmp(bytes + LENGTH, opening, n_opening) != 0)
        return bad(self, "not a shard's file of psd", err);
    if (!psd_seal_ok(bytes, self->st.n_bytes, bytes + LENGTH + n_opening, &self->crc))
        return bad(self, "the header is damaged: its CRC differs", err);
    if (only_crc)
        return PSD_OK;
    int rc = psd_safetensors_parse(&self->st, err);
    if (rc || (rc = read_facts(self, err)))
        return rc;
    return check_groups(self, err);
}

int psd_shardfile_open(psd_shardfile_t *out, const char *path, bool only_crc, psd_err_t *err)
{
    *out = (psd_shardfile_t){ 0 };
    int rc = psd_safetensors_open(&out->st, path, err);
    return rc ? rc : psd_shardfile_parse(out, only_crc, err);
}

void psd_shardfile_close(psd_shardfile_t *self)
{
    psd_safetensors_close(&self->st);
    psd_ckpt_facts_clear(&self->facts);
}

/* The chunk at that place, by bisection: they are in the order of tensors and offsets. */
static const psd_chunk_t *chunk_at(const psd_partition_t *map, uint32_t tensor, uint64_t offset)
{
    uint32_t low = 0, high = map->n_chunks;
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        const psd_chunk_t *c = &map->chunk[middle];
        if (c->tensor == tensor && c->offset == offset)
            return c;
        if (c->tensor < tensor || (c->tensor == tensor && c->offset < offset))
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

/* The chunk that an entry of that name could be; whether it is one is seen by printing its name again. */
static const psd_chunk_t *chunk_named(const char *name, const psd_tensor_list_t *model, const psd_partition_t *map, uint32_t *hint)
{
    const char *bracket = strrchr(name, '[');
    const size_t n = bracket ? (size_t)(bracket - name) : PSD_MAX_NAME;
    for (uint32_t k = 0; n < PSD_MAX_NAME && k < model->n; k++) {
        const uint32_t t = (*hint + k) % model->n;
        if (memcmp(model->tensor[t].name, name, n) == 0 && model->tensor[t].name[n] == '\0') {
            *hint = t;
            return chunk_at(map, t, strtoull(bracket + 1, NULL, 10));
        }
    }
    return NULL;
}

const psd_chunk_t *psd_shardfile_chunk(const psd_shardfile_t *self, uint32_t i, const psd_tensor_list_t *model,
                                       const psd_partition_t *map, uint32_t *hint, psd_err_t *err)
{
    char name[ENTRY_TEXT];
    const uint32_t n_arrays = 1 + (uint32_t)self->rule.n_slots;
    const psd_entry_t *entry = &self->st.entry[(size_t)i * n_arrays];
    const psd_chunk_t *c = chunk_named(entry->name, model, map, hint);
    for (uint32_t a = 0; a < n_arrays; a++, entry++) {
        if (c)
            name_array(name, model, c, &self->rule, (int)a);
        if (!c || strcmp(entry->name, name) != 0 || strcmp(entry->dtype, "F32") != 0 || entry->n_dims != 1 ||
            entry->shape[0] != c->n) {
            psd_err_set(err, PSD_EDATA, "%s: %.200s is no chunk and array of the model", self->st.path, entry->name);
            return NULL;
        }
    }
    return c;
}

int psd_shardfile_state(const psd_shardfile_t *self, uint32_t i, psd_rule_state_t *state, psd_err_t *err)
{
    const char *at = psd_safetensors_note(&self->st, "psd.state") + (size_t)i * STATE;
    uint64_t word[2 + PSD_MAX_SCALAR];
    for (int k = 0; k < 2 + PSD_MAX_SCALAR; k++)
        if (!psd_seal_get(at + k * WORD, WORD, &word[k]))
            return bad(self, "psd.state has a digit that is none", err);
    state->t = word[0];
    state->sync_epoch = word[1];
    memcpy(state->scalar, word + 2, sizeof state->scalar);
    return PSD_OK;
}

static int read_array(const psd_shardfile_t *self, size_t index, float *to, psd_err_t *err)
{
    const psd_entry_t *entry = &self->st.entry[index];
    const char *digits = psd_safetensors_note(&self->st, "psd.data_crc") + index * CRC;
    uint64_t crc;
    int rc = psd_safetensors_read(&self->st, entry, to, err);
    if (rc)
        return rc;
    if (!psd_seal_get(digits, CRC, &crc) || crc != psd_crc32c(to, (size_t)(entry->end - entry->begin)))
        return psd_err_set(err, PSD_EDATA, "%s: %.200s is damaged: its CRC differs", self->st.path, entry->name);
    return PSD_OK;
}

int psd_shardfile_read(const psd_shardfile_t *self, uint32_t i, const psd_ckpt_target_t *to, psd_err_t *err)
{
    const size_t first = (size_t)i * (1 + (size_t)self->rule.n_slots);
    int rc = psd_shardfile_state(self, i, to->state, err);
    if (!rc)
        rc = read_array(self, first, to->w, err);
    for (int s = 0; !rc && s < self->rule.n_slots; s++)
        rc = read_array(self, first + 1 + (size_t)s, to->slot[s], err);
    return rc;
}
