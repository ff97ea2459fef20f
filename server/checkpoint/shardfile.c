#include "server/checkpoint/shardfile.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/config/number.h"
#include "server/checkpoint/seal.h"

enum {
    LENGTH = 8,                          /* bytes of a safetensors header's length */
    CRC = PSD_SEAL_DIGITS,               /* digits of a CRC */
    WORD = 16,                           /* digits of a 64-bit number */
    STATE = (2 + PSD_MAX_SCALAR) * WORD, /* digits of a chunk's state */
    OLD_SCALARS = 2,                     /* doubles of it in format 1 */
    ROW = 8 + 2 * WORD,                  /* digits of a row of the applied table */
    RESIDUAL = 8 + 1,                    /* digits of the note on a residual */
    ENTRY_TEXT = PSD_MAX_NAME + 80
};

#define FORMAT "2"

/* The header begins with this, so that its CRC has a place that needs no parsing. */
static const char opening[] = "{\"__metadata__\":{\"psd.crc\":\"";

static uint64_t bits(double value)
{
    uint64_t word;
    memcpy(&word, &value, sizeof word);
    return word;
}

/* ---- names ---- */

/* "fc1.weight[0:1024]", "fc1.weight[0:1024]/exp_avg", "fc1.weight[0:1024]/residual.3" */
static void name_array(char text[ENTRY_TEXT], const psd_tensor_list_t *model, const psd_chunk_t *c, const psd_rule_t *rule,
                       const psd_ckpt_facts_t *facts, uint32_t array)
{
    const uint32_t n_slots = (uint32_t)rule->n_slots;
    const int n =
        snprintf(text, ENTRY_TEXT, "%s[%" PRIu64 ":%" PRIu64 "]", model->tensor[c->tensor].name, c->offset, c->offset + c->n);
    if (array > n_slots)
        snprintf(text + n, ENTRY_TEXT - (size_t)n, "/residual.%" PRIu32, facts->residual[array - 1 - n_slots].worker);
    else if (array)
        snprintf(text + n, ENTRY_TEXT - (size_t)n, "/%s", rule->slot[array - 1].name);
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

static char *residuals_text(const psd_ckpt_facts_t *facts)
{
    char *text = zeros((size_t)facts->n_residuals * RESIDUAL);
    for (uint32_t i = 0; text && i < facts->n_residuals; i++)
        psd_seal_put(text + (size_t)i * RESIDUAL, 8, facts->residual[i].worker);
    return text;
}

static void begin_header(psd_header_t *header, const psd_ckpt_facts_t *facts, const psd_groups_t *groups, const char *applied,
                         const char *residuals, const char *state, const char *data_crc)
{
    char rule[PSD_RULE_TEXT], text[PSD_GROUPS_TEXT], lr[PSD_NUMBER_TEXT], number[5][24];
    const uint64_t value[5] = { facts->clock, facts->version, facts->view_id, facts->shard, facts->n_shards };
    for (int i = 0; i < 5; i++)
        snprintf(number[i], sizeof number[i], "%" PRIu64, value[i]);
    const psd_note_t notes[] = {
        { "psd.crc", "00000000" },
        { "psd.format", FORMAT },
        { "psd.job", facts->job },
        { "psd.settings", facts->settings },
        { "psd.rule", psd_rule_print(&psd_groups_rest(groups)->rule, rule) },
        { "psd.groups", psd_groups_print(groups, text) },
        { "psd.lr", psd_number_print(facts->lr, lr) },
        { "psd.clock", number[0] },
        { "psd.version", number[1] },
        { "psd.view", number[2] },
        { "psd.shard", number[3] },
        { "psd.shards", number[4] },
        { "psd.applied", applied },
        { "psd.residuals", residuals },
        { "psd.state", state },
        { "psd.data_crc", data_crc },
    };
    psd_header_begin(header, notes, sizeof notes / sizeof *notes);
}

/* Where a note's value is. A user's text cannot look like a note, because quotes in it are escaped. */
static char *place(const psd_header_t *header, const char *key)
{
    char pattern[32];
    int n = snprintf(pattern, sizeof pattern, "\"%s\":\"", key);
    char *at = memmem(header->bytes + LENGTH, header->n_bytes - LENGTH, pattern, (size_t)n);
    assert(at);
    return at + n;
}

/* The rule that has trained, or will train, a tensor. */
static const psd_rule_t *rule_of(const psd_groups_t *groups, const psd_tensor_list_t *model, const psd_partition_t *map, uint32_t t)
{
    return &groups->at[psd_groups_of(groups, model->tensor[t].name, &map->tensor[t].shape)].rule;
}

/* Elements of a chunk's a-th array: its weights, its slots, then residuals. */
static uint32_t n_of_array(const psd_partition_t *map, const psd_chunk_t *c, const psd_rule_t *rule, uint32_t a)
{
    const bool is_slot = a && a <= (uint32_t)rule->n_slots;
    return is_slot ? (uint32_t)psd_rule_slot_elements(rule, (int)a - 1, &map->tensor[c->tensor], c->offset, c->n) : c->n;
}

void psd_shardfile_count(uint32_t *first, const psd_ckpt_facts_t *facts, const psd_tensor_list_t *model, const psd_partition_t *map,
                         const psd_groups_t *groups)
{
    first[0] = 0;
    for (uint32_t i = 0; i < map->n_held[facts->shard]; i++) {
        const psd_chunk_t *c = &map->chunk[map->held[facts->shard][i]];
        first[i + 1] = first[i] + 1 + (uint32_t)rule_of(groups, model, map, c->tensor)->n_slots + facts->n_residuals;
    }
}

uint64_t psd_shardfile_place(uint32_t *n, const psd_ckpt_facts_t *facts, const psd_tensor_list_t *model, const psd_partition_t *map,
                             const psd_groups_t *groups, const uint32_t *first)
{
    uint64_t total = 0;
    for (uint32_t i = 0; i < map->n_held[facts->shard]; i++) {
        const psd_chunk_t *c = &map->chunk[map->held[facts->shard][i]];
        for (uint32_t a = 0; a < first[i + 1] - first[i]; a++)
            total += n[first[i] + a] = n_of_array(map, c, rule_of(groups, model, map, c->tensor), a);
    }
    return total * sizeof(float);
}

int psd_shardfile_header(psd_header_t *header, psd_shardfile_places_t *places, const psd_ckpt_facts_t *facts,
                         const psd_tensor_list_t *model, const psd_partition_t *map, const psd_groups_t *groups,
                         const uint32_t *first, psd_err_t *err)
{
    char name[ENTRY_TEXT];
    const size_t n_parts = map->n_held[facts->shard];
    char *applied = applied_text(facts), *residuals = residuals_text(facts), *state = zeros(n_parts * STATE),
         *crcs = zeros((size_t)first[n_parts] * CRC);
    *header = (psd_header_t){ .code = PSD_ENOMEM };
    if (applied && residuals && state && crcs)
        begin_header(header, facts, groups, applied, residuals, state, crcs);
    free(applied);
    free(residuals);
    free(state);
    free(crcs);
    for (size_t p = 0; p < n_parts; p++)
        for (uint32_t a = 0; a < first[p + 1] - first[p]; a++) {
            const psd_chunk_t *c = &map->chunk[map->held[facts->shard][p]];
            const psd_rule_t *rule = rule_of(groups, model, map, c->tensor);
            name_array(name, model, c, rule, facts, a);
            psd_header_add(header, name, &(const uint64_t){ n_of_array(map, c, rule, a) }, 1);
        }
    int rc = psd_header_end(header, err);
    if (rc == PSD_OK)
        *places = (psd_shardfile_places_t){ place(header, "psd.crc"), place(header, "psd.residuals"), place(header, "psd.state"),
                                            place(header, "psd.data_crc") };
    return rc;
}

void psd_shardfile_set_state(const psd_shardfile_places_t *places, uint32_t i, const psd_rule_state_t *state)
{
    char *at = places->state + (size_t)i * STATE;
    psd_seal_put(at, WORD, state->t);
    psd_seal_put(at + WORD, WORD, state->sync_epoch);
    for (int k = 0; k < PSD_MAX_SCALAR; k++)
        psd_seal_put(at + (2 + k) * WORD, WORD, bits(state->scalar[k]));
}

void psd_shardfile_set_crc(const psd_shardfile_places_t *places, size_t array, uint32_t crc)
{
    psd_seal_put(places->data_crc + array * CRC, CRC, crc);
}

void psd_shardfile_set_whole(const psd_shardfile_places_t *places, uint32_t i)
{
    places->residuals[(size_t)i * RESIDUAL + 8] = '1';
}

/* ---- reading ---- */

static int bad(const psd_shardfile_t *self, const char *what, psd_err_t *err)
{
    return psd_err_set(err, PSD_EDATA, "%s: %s", self->st.path, what);
}

/* A decimal number below PSD_MAX_COUNT, in the spelling that the writer uses. */
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
        return bad(self, "psd.applied is not a table of workers", err);
    if (!(self->facts.applied = calloc(n_rows + 1, sizeof *self->facts.applied)))
        return psd_err_set(err, PSD_ENOMEM, "no memory for %zu workers", n_rows);
    for (size_t i = 0; i < n_rows; i++, text += ROW) {
        psd_applied_t *row = &self->facts.applied[i];
        uint64_t worker;
        if (!psd_seal_get(text, 8, &worker) || !psd_seal_get(text + 8, WORD, &row->incarnation) ||
            !psd_seal_get(text + 8 + WORD, WORD, &row->clock) || (i && worker <= row[-1].worker))
            return bad(self, "psd.applied is not a table of workers", err);
        row->worker = (uint32_t)worker;
    }
    self->facts.n_applied = (uint32_t)n_rows;
    return PSD_OK;
}

static int read_residuals(psd_shardfile_t *self, psd_err_t *err)
{
    const char *note = psd_safetensors_note(&self->st, "psd.residuals"), *text = note ? note : "";
    const size_t n = strlen(text), n_rows = n / RESIDUAL;
    if (n % RESIDUAL != 0 || n_rows > PSD_MAX_WORKERS)
        return bad(self, "psd.residuals is not a table of workers", err);
    if (!(self->facts.residual = calloc(n_rows + 1, sizeof *self->facts.residual)))
        return psd_err_set(err, PSD_ENOMEM, "no memory for %zu workers", n_rows);
    for (size_t i = 0; i < n_rows; i++, text += RESIDUAL) {
        psd_ckpt_residual_t *row = &self->facts.residual[i];
        uint64_t worker;
        if (!psd_seal_get(text, 8, &worker) || (text[8] != '0' && text[8] != '1') || (i && worker <= row[-1].worker))
            return bad(self, "psd.residuals is not a table of workers", err);
        *row = (psd_ckpt_residual_t){ (uint32_t)worker, text[8] == '1' };
    }
    self->facts.n_residuals = (uint32_t)n_rows;
    return PSD_OK;
}

static int read_facts(psd_shardfile_t *self, psd_err_t *err)
{
    psd_ckpt_facts_t *facts = &self->facts;
    uint64_t shard, n_shards;
    const char *format = psd_safetensors_note(&self->st, "psd.format");
    const char *rule = psd_safetensors_note(&self->st, "psd.rule"), *groups = psd_safetensors_note(&self->st, "psd.groups");
    if (!format || (strcmp(format, FORMAT) != 0 && strcmp(format, "1") != 0))
        return bad(self, "not of format " FORMAT " or 1, those that this psd reads", err);
    self->n_scalars = *format == '1' ? OLD_SCALARS : PSD_MAX_SCALAR;
    if (!get_text(self, "psd.job", &facts->job) || !get_text(self, "psd.settings", &facts->settings) ||
        !get_count(self, "psd.clock", &facts->clock) || !get_count(self, "psd.version", &facts->version) ||
        !get_count(self, "psd.view", &facts->view_id) || !get_count(self, "psd.shard", &shard) ||
        !get_count(self, "psd.shards", &n_shards) || !get_real(self, "psd.lr", &facts->lr))
        return bad(self, "a psd note is missing or not a number", err);
    if (n_shards > PSD_MAX_SERVERS || shard >= n_shards)
        return psd_err_set(err, PSD_EDATA, "%s: shard %" PRIu64 " of %" PRIu64, self->st.path, shard, n_shards);
    facts->shard = (uint32_t)shard;
    facts->n_shards = (uint32_t)n_shards;
    if (!rule || psd_groups_parse(&self->groups, rule, groups ? groups : "", err) != PSD_OK) /* older files had no groups */
        return bad(self, "psd.rule and psd.groups are not rules that this psd knows", err);
    int rc = read_applied(self, err);
    return rc ? rc : read_residuals(self, err);
}

/* The number of entries from `at` on whose names begin with the chunk of entry `at`, such as "fc1.weight[0:1024]". Code that knows
 * the model checks the rest of their names. */
static uint32_t arrays_of(const psd_shardfile_t *self, size_t at)
{
    const char *name = self->st.entry[at].name, *bracket = strrchr(name, ']');
    const size_t n = bracket ? (size_t)(bracket + 1 - name) : strlen(name);
    uint32_t count = 1;
    while (at + count < self->st.n_entries && !strncmp(self->st.entry[at + count].name, name, n) &&
           self->st.entry[at + count].name[n] == '/')
        count++;
    return count;
}

static size_t state_digits(const psd_shardfile_t *self) { return (size_t)(2 + self->n_scalars) * WORD; }

/* Check that the entries make complete runs, and that there are as many numbers as runs. */
static int check_runs(psd_shardfile_t *self, psd_err_t *err)
{
    size_t n_runs = 0, at = 0;
    if (!(self->first = calloc(self->st.n_entries + 1, sizeof *self->first)))
        return psd_err_set(err, PSD_ENOMEM, "no memory for a list of %zu arrays", self->st.n_entries);
    for (; at < self->st.n_entries; at += arrays_of(self, at))
        self->first[n_runs++] = (uint32_t)at;
    self->first[n_runs] = (uint32_t)at;
    const char *state = psd_safetensors_note(&self->st, "psd.state");
    const char *crcs = psd_safetensors_note(&self->st, "psd.data_crc");
    if (at != self->st.n_entries || n_runs > PSD_MAX_PARTS)
        return bad(self, "its entries are not one per chunk and array of its rule", err);
    if (!state || strlen(state) != n_runs * state_digits(self) || !crcs || strlen(crcs) != self->st.n_entries * CRC)
        return bad(self, "the length of psd.state or psd.data_crc does not match the number of its chunks", err);
    self->n_parts = (uint32_t)n_runs;
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
    return check_runs(self, err);
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
    free(self->first);
    self->first = NULL;
}

/* The chunk at that place, by bisection: chunks are sorted by tensor and offset. */
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

/* The chunk that an entry of that name could be; the caller prints the chunk's name and compares it to be sure. */
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
    const uint32_t n_arrays = self->first[i + 1] - self->first[i];
    const psd_entry_t *entry = &self->st.entry[self->first[i]];
    const psd_chunk_t *c = chunk_named(entry->name, model, map, hint);
    const psd_rule_t *rule = c ? rule_of(&self->groups, model, map, c->tensor) : NULL;
    if (c && n_arrays != 1 + (uint32_t)rule->n_slots + self->facts.n_residuals) {
        psd_err_set(err, PSD_EDATA, "%s: %.200s has %" PRIu32 " arrays, not those of its rule", self->st.path, entry->name,
                    n_arrays);
        return NULL;
    }
    for (uint32_t a = 0; a < n_arrays; a++, entry++) {
        if (c)
            name_array(name, model, c, rule, &self->facts, a);
        if (!c || strcmp(entry->name, name) != 0 || strcmp(entry->dtype, "F32") != 0 || entry->n_dims != 1 ||
            entry->shape[0] != n_of_array(map, c, rule, a)) {
            psd_err_set(err, PSD_EDATA, "%s: %.200s is not a chunk and array of the model", self->st.path, entry->name);
            return NULL;
        }
    }
    return c;
}

int psd_shardfile_state(const psd_shardfile_t *self, uint32_t i, psd_rule_state_t *state, psd_err_t *err)
{
    const char *at = psd_safetensors_note(&self->st, "psd.state") + (size_t)i * state_digits(self);
    uint64_t word[2 + PSD_MAX_SCALAR] = { 0 };
    for (uint32_t k = 0; k < 2 + self->n_scalars; k++)
        if (!psd_seal_get(at + k * WORD, WORD, &word[k]))
            return bad(self, "psd.state has an invalid digit", err);
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
    const uint32_t first = self->first[i];
    int rc = psd_shardfile_state(self, i, to->state, err);
    if (!rc)
        rc = read_array(self, first, to->w, err);
    for (uint32_t a = first + 1; !rc && a < self->first[i + 1] - self->facts.n_residuals; a++)
        rc = read_array(self, a, to->slot[a - first - 1], err);
    return rc;
}

int psd_shardfile_residual(const psd_shardfile_t *self, uint32_t i, uint32_t k, float *to, psd_err_t *err)
{
    assert(k < self->facts.n_residuals);
    return read_array(self, self->first[i + 1] - self->facts.n_residuals + k, to, err);
}
