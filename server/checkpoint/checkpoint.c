#include "server/checkpoint/checkpoint.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/system/durable.h"
#include "common/system/failpoint.h"
#include "common/system/log.h"
#include "server/checkpoint/manifest.h"
#include "server/checkpoint/seal.h"
#include "server/checkpoint/shardfile.h"

enum {
    ROOM_FOR_NAMES = 128,    /* bytes that psd's file names add to a directory's path */
    MAX_MANIFEST = 16 << 20, /* bytes of a manifest that are read */
    FEWEST_KEPT = 2
};

/* ---- names ---- */

static int check_dir(const char *dir, psd_err_t *err)
{
    if (strlen(dir) + ROOM_FOR_NAMES > PATH_MAX)
        return psd_err_set(err, PSD_EIO, "%.200s...: the name is too long", dir);
    return PSD_OK;
}

static void clock_path(char path[PATH_MAX], const char *dir, uint64_t clock)
{
    snprintf(path, PATH_MAX, "%s/%012" PRIu64, dir, clock);
}

static void shard_path(char path[PATH_MAX], const char *dir, uint64_t clock, uint32_t shard)
{
    snprintf(path, PATH_MAX, "%s/%012" PRIu64 "/shard-%" PRIu32 ".safetensors", dir, clock, shard);
}

static void manifest_path(char path[PATH_MAX], const char *dir, uint64_t clock)
{
    snprintf(path, PATH_MAX, "%s/MANIFEST-%012" PRIu64 ".json", dir, clock);
}

/* Whether `name` is `format` (with one PRIu64) of some clock, exactly. */
static bool clock_in(const char *name, const char *before, const char *after, uint64_t *clock)
{
    char again[64];
    const size_t n = strlen(before);
    if (strncmp(name, before, n) != 0)
        return false;
    *clock = strtoull(name + n, NULL, 10);
    snprintf(again, sizeof again, "%s%012" PRIu64 "%s", before, *clock, after);
    return strcmp(name, again) == 0 && *clock < PSD_MAX_COUNT;
}

/* ---- writing a shard's file ---- */

struct psd_ckpt_writer {
    psd_durable_t *file;
    psd_header_t header;           /* its last numbers come with the chunks */
    psd_shardfile_places_t places; /* where */
    const psd_partition_t *map;
    uint32_t shard;
    uint32_t n_residuals;
    uint32_t *first;         /* the first array of each chunk, weights, slots and residuals, and one more */
    uint32_t n_left;         /* chunks still to be written */
    uint32_t *residual_left; /* likewise of each residual */
    uint32_t *n_array;       /* elements of each array */
    uint64_t *offset;        /* of each chunk in the file */
    bool *is_written;        /* each chunk */
    uint64_t n_bytes;        /* of the file */
};

static int begin(psd_ckpt_writer_t *self, const char *dir, const psd_ckpt_facts_t *facts, const psd_tensor_list_t *model,
                 const psd_groups_t *groups, psd_err_t *err)
{
    char path[PATH_MAX];
    int rc = check_dir(dir, err);
    psd_shardfile_count(self->first, facts, model, self->map, groups);
    if (rc || (rc = psd_shardfile_header(&self->header, &self->places, facts, model, self->map, groups, self->first, err)))
        return rc;
    uint64_t at = self->header.n_bytes;
    if (!(self->n_array = calloc((size_t)self->first[self->n_left] + 1, sizeof *self->n_array)))
        return psd_err_set(err, PSD_ENOMEM, "no memory to write a checkpoint");
    psd_shardfile_place(self->n_array, facts, model, self->map, groups, self->first);
    for (uint32_t p = 0; p < self->n_left; p++) {
        self->offset[p] = at;
        for (uint32_t a = self->first[p]; a < self->first[p + 1]; a++)
            at += self->n_array[a] * sizeof(float);
    }
    self->n_bytes = at;
    clock_path(path, dir, facts->clock);
    if ((rc = psd_durable_mkdir(path, err)))
        return rc;
    shard_path(path, dir, facts->clock, facts->shard);
    if (!(self->file = psd_durable_new(path, at, err)))
        return PSD_EIO;
    /* Some residuals may never come, not even the last one. Set the file's length anyway, also where the file system cannot reserve
     * room. */
    const float nothing = 0;
    return facts->n_residuals && self->n_left ? psd_durable_write(self->file, &nothing, sizeof nothing, at - sizeof nothing, err)
                                              : PSD_OK;
}

psd_ckpt_writer_t *psd_ckpt_begin(const char *dir, const psd_ckpt_facts_t *facts, const psd_tensor_list_t *model,
                                  const psd_partition_t *map, const psd_groups_t *groups, psd_err_t *err)
{
    assert(facts->n_shards == map->n_servers && facts->shard < map->n_servers);
    psd_ckpt_writer_t *self = calloc(1, sizeof *self);
    const uint32_t n = map->n_held[facts->shard];
    uint64_t *offset = calloc(n + 1, sizeof *offset);
    uint32_t *first = calloc(n + 1, sizeof *first);
    bool *is_written = calloc(n + 1, sizeof *is_written);
    uint32_t *residual_left = calloc(facts->n_residuals + 1, sizeof *residual_left);
    if (!self || !offset || !first || !is_written || !residual_left) {
        psd_err_set(err, PSD_ENOMEM, "no memory to write a checkpoint");
        free(residual_left);
        free(is_written);
        free(first);
        free(offset);
        free(self);
        return NULL;
    }
    for (uint32_t i = 0; i < facts->n_residuals; i++)
        residual_left[i] = n;
    *self = (psd_ckpt_writer_t){ .map = map,
                                 .shard = facts->shard,
                                 .n_residuals = facts->n_residuals,
                                 .first = first,
                                 .n_left = n,
                                 .residual_left = residual_left,
                                 .offset = offset,
                                 .is_written = is_written };
    if (begin(self, dir, facts, model, groups, err) != PSD_OK)
        psd_ckpt_abandon(&self);
    return self;
}

uint64_t psd_ckpt_bytes(const psd_ckpt_writer_t *self) { return self->n_bytes; }

/* Arrays of a chunk before its residuals. */
static uint32_t n_state(const psd_ckpt_writer_t *self, uint32_t chunk)
{
    return self->first[chunk + 1] - self->first[chunk] - self->n_residuals;
}

/* Write the a-th array of a chunk. */
static int write_array(psd_ckpt_writer_t *self, uint32_t chunk, uint32_t a, const float *array, psd_err_t *err)
{
    const size_t index = self->first[chunk] + a, n_bytes = self->n_array[index] * sizeof *array;
    uint64_t at = self->offset[chunk];
    for (size_t before = self->first[chunk]; before < index; before++)
        at += self->n_array[before] * sizeof *array;
    psd_shardfile_set_crc(&self->places, index, psd_crc32c(array, n_bytes));
    return n_bytes ? psd_durable_write(self->file, array, n_bytes, at, err) : PSD_OK;
}

int psd_ckpt_chunk(psd_ckpt_writer_t *self, uint32_t chunk, const float *w, float *const *slot, const psd_rule_state_t *state,
                   psd_err_t *err)
{
    assert(chunk < self->map->n_held[self->shard] && !self->is_written[chunk] && "each chunk once");
    for (uint32_t a = 0; a < n_state(self, chunk); a++) {
        int rc = write_array(self, chunk, a, a ? slot[a - 1] : w, err);
        if (rc)
            return rc;
    }
    psd_shardfile_set_state(&self->places, chunk, state);
    self->is_written[chunk] = true;
    self->n_left--;
    return PSD_OK;
}

int psd_ckpt_residual(psd_ckpt_writer_t *self, uint32_t i, uint32_t chunk, const float *kept, psd_err_t *err)
{
    assert(self->residual_left[i] && "each chunk once");
    int rc = write_array(self, chunk, n_state(self, chunk) + i, kept, err);
    if (!rc && !--self->residual_left[i])
        psd_shardfile_set_whole(&self->places, i);
    return rc;
}

int psd_ckpt_end(psd_ckpt_writer_t **self_p, psd_err_t *err)
{
    psd_ckpt_writer_t *self = *self_p;
    int rc;
    if (self->n_left)
        rc = psd_err_set(err, PSD_EINVAL, "%" PRIu32 " chunks of the shard were not written", self->n_left);
    else {
        psd_seal(self->header.bytes, self->header.n_bytes, self->places.crc);
        rc = psd_durable_write(self->file, self->header.bytes, self->header.n_bytes, 0, err);
        if (!rc)
            rc = psd_durable_end(&self->file, err);
    }
    psd_ckpt_abandon(self_p);
    return rc;
}

void psd_ckpt_abandon(psd_ckpt_writer_t **self_p)
{
    psd_ckpt_writer_t *self = *self_p;
    *self_p = NULL;
    if (!self)
        return;
    psd_durable_abandon(&self->file);
    free(self->header.bytes);
    free(self->residual_left);
    free(self->is_written);
    free(self->offset);
    free(self->n_array);
    free(self->first);
    free(self);
}

/* ---- manifests ---- */

static char *read_text(int fd, size_t n_bytes)
{
    char *text = malloc(n_bytes + 1);
    for (size_t at = 0; text && at < n_bytes;) {
        ssize_t done = pread(fd, text + at, n_bytes - at, (off_t)at);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0) {
            free(text);
            return NULL;
        }
        at += (size_t)done;
    }
    return text;
}

static int read_manifest(psd_manifest_t *out, const char *dir, uint64_t clock, psd_err_t *err)
{
    char path[PATH_MAX];
    struct stat info;
    *out = (psd_manifest_t){ 0 };
    int rc = check_dir(dir, err);
    if (rc)
        return rc;
    manifest_path(path, dir, clock);
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &info)) {
        rc = psd_err_set(err, errno == ENOENT ? PSD_ENOINPUT : PSD_EIO, "cannot read %s: %s", path, strerror(errno));
    } else if (!S_ISREG(info.st_mode) || info.st_size > MAX_MANIFEST) {
        rc = psd_err_set(err, PSD_EDATA, "%s: not a manifest of psd", path);
    } else {
        char *text = read_text(fd, (size_t)info.st_size);
        rc = text ? psd_manifest_parse(out, text, (size_t)info.st_size, clock, path, err)
                  : psd_err_set(err, PSD_EIO, "cannot read %s whole", path);
        free(text);
    }
    if (fd >= 0)
        close(fd);
    return rc;
}

/* Open the i-th file of the manifest, which must be the one that it lists. Close it in any case. */
static int open_listed(psd_shardfile_t *out, const char *dir, const psd_manifest_t *manifest, uint32_t i, bool only_crc,
                       psd_err_t *err)
{
    char path[PATH_MAX];
    shard_path(path, dir, manifest->facts.clock, i);
    int rc = psd_shardfile_open(out, path, only_crc, err);
    if (rc)
        return rc;
    const uint64_t n_bytes = out->st.n_bytes + out->st.n_data;
    if (n_bytes != manifest->file[i].n_bytes)
        return psd_err_set(err, PSD_EDATA, "%s has %" PRIu64 " bytes, its manifest says %" PRIu64, path, n_bytes,
                           manifest->file[i].n_bytes);
    if (out->crc != manifest->file[i].crc)
        return psd_err_set(err, PSD_EDATA,
                           "%s is not the file that its manifest lists: its header's CRC is %08" PRIx32 ", not %08" PRIx32, path,
                           out->crc, manifest->file[i].crc);
    return PSD_OK;
}

int psd_ckpt_check(const char *dir, uint64_t clock, psd_err_t *err)
{
    psd_manifest_t manifest;
    int rc = read_manifest(&manifest, dir, clock, err);
    for (uint32_t i = 0; !rc && i < manifest.facts.n_shards; i++) {
        psd_shardfile_t file;
        rc = open_listed(&file, dir, &manifest, i, true, err);
        psd_shardfile_close(&file);
    }
    psd_manifest_clear(&manifest);
    return rc;
}

static bool is_whole(const char *dir, uint64_t clock) { return psd_ckpt_check(dir, clock, NULL) == PSD_OK; }

int psd_ckpt_read(const char *dir, uint64_t clock, psd_ckpt_facts_t *facts, psd_tensor_list_t *model, psd_err_t *err)
{
    psd_manifest_t manifest;
    *facts = (psd_ckpt_facts_t){ 0 };
    *model = (psd_tensor_list_t){ 0 };
    int rc = read_manifest(&manifest, dir, clock, err);
    if (rc) {
        psd_manifest_clear(&manifest);
        return rc;
    }
    *facts = manifest.facts; /* their strings and the list change hands */
    *model = manifest.model;
    return PSD_OK;
}

/* ---- what is in a directory ---- */

typedef struct clocks {
    uint64_t *at;
    size_t n, room;
} clocks_t;

static bool add_clock(clocks_t *self, uint64_t clock)
{
    if (self->n == self->room) {
        uint64_t *at = realloc(self->at, (2 * self->room + 16) * sizeof *at);
        if (!at)
            return false;
        self->at = at;
        self->room = 2 * self->room + 16;
    }
    self->at[self->n++] = clock;
    return true;
}

static int newest_first(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;
    return *x > *y ? -1 : *x < *y;
}

/* The clocks of all entries of `dir` that have a name of this kind, newest first. */
static clocks_t find_clocks(const char *dir, const char *before, const char *after)
{
    clocks_t found = { 0 };
    uint64_t clock;
    DIR *names = opendir(dir);
    for (struct dirent *name; names && (name = readdir(names));)
        if (clock_in(name->d_name, before, after, &clock) && !add_clock(&found, clock))
            break;
    if (names)
        closedir(names);
    if (found.n)
        qsort(found.at, found.n, sizeof *found.at, newest_first);
    return found;
}

static clocks_t find_manifests(const char *dir) { return find_clocks(dir, "MANIFEST-", ".json"); }

size_t psd_ckpt_manifests(const char *dir, uint64_t *clocks, size_t capacity)
{
    clocks_t found = find_manifests(dir);
    const size_t n = found.n < capacity ? found.n : capacity;
    if (n)
        memcpy(clocks, found.at, n * sizeof *clocks);
    free(found.at);
    return n;
}

size_t psd_ckpt_list(const char *dir, uint64_t *clocks, size_t capacity)
{
    size_t n = 0;
    clocks_t found = find_manifests(dir);
    for (size_t i = 0; n < capacity && i < found.n; i++)
        if (is_whole(dir, found.at[i]))
            clocks[n++] = found.at[i];
    free(found.at);
    return n;
}

/* ---- reading shards' files ---- */

enum { NOBODY = UINT32_MAX - 1, EVERYBODY = UINT32_MAX };

/* A walk through all files of a checkpoint: each chunk must occur exactly once; only some are read. */
typedef struct walk {
    const char *dir;
    const psd_manifest_t *manifest;
    const psd_partition_t *map;
    const psd_groups_t *groups; /* NULL: those of the first file */
    uint32_t server;            /* whose chunks are read; NOBODY, EVERYBODY */
    psd_ckpt_target_t (*target)(void *arg, uint32_t chunk);
    void *arg;
    int (*each)(void *arg, const psd_chunk_t *chunk, const psd_ckpt_target_t *data, psd_err_t *err);
    void *each_arg; /* called for each chunk that was read; NULL: none */
    float *scratch; /* room for a chunk of a residual; all residuals are read. NULL: none is */
    float *(*residual_target)(void *arg,
                              uint32_t chunk); /* if set: where the residual of `worker` goes; then nothing else is read */
    uint32_t worker;
    psd_rule_state_t *counters; /* per tensor of the model; NULL: not requested */
    uint8_t *counted;           /* per tensor: whether its counters are known */
    psd_groups_t first;         /* the first file's */
    uint8_t *seen;              /* per chunk of the map */
    uint32_t n_seen;
    psd_applied_t *applied; /* union of the tables of all files */
    uint32_t n_applied;
} walk_t;

/* Whether the row is the later of two. */
static bool is_later(const psd_applied_t *a, const psd_applied_t *b)
{
    return a->incarnation != b->incarnation ? a->incarnation > b->incarnation : a->clock > b->clock;
}

static int merge_applied(psd_applied_t **table, uint32_t *n_table, const psd_ckpt_facts_t *facts, psd_err_t *err)
{
    const psd_applied_t *a = *table, *b = facts->applied;
    const psd_applied_t *a_end = a ? a + *n_table : a, *b_end = b + facts->n_applied;
    psd_applied_t *out = calloc((size_t)*n_table + facts->n_applied + 1, sizeof *out);
    uint32_t n = 0;
    if (!out)
        return psd_err_set(err, PSD_ENOMEM, "no memory for a table of workers");
    while (a != a_end || b != b_end) {
        if (b == b_end || (a != a_end && a->worker < b->worker)) {
            out[n++] = *a++;
        } else if (a == a_end || b->worker < a->worker) {
            out[n++] = *b++;
        } else {
            out[n++] = is_later(b, a) ? *b : *a;
            a++, b++;
        }
    }
    free(*table);
    *table = out;
    *n_table = n;
    return PSD_OK;
}

static int check_rule(const psd_groups_t *groups, const psd_shardfile_t *file, const char *tensor, const psd_shape_t *shape,
                      psd_err_t *err)
{
    char our[PSD_RULE_TEXT], their[PSD_RULE_TEXT];
    const psd_rule_t *ours = &groups->at[psd_groups_of(groups, tensor, shape)].rule;
    const psd_rule_t *theirs = &file->groups.at[psd_groups_of(&file->groups, tensor, shape)].rule;
    bool same = ours->opt == theirs->opt && ours->lookahead == theirs->lookahead && ours->n_slots == theirs->n_slots;
    for (int s = 0; same && s < ours->n_slots; s++)
        same = strcmp(ours->slot[s].name, theirs->slot[s].name) == 0;
    if (!same)
        return psd_err_set(err, PSD_EDATA, "%s: %.100s was saved by %.180s, whose state is not that of %.180s", file->st.path,
                           tensor, psd_rule_print(theirs, their), psd_rule_print(ours, our));
    return PSD_OK;
}

static int check_facts(const psd_ckpt_facts_t *common, uint32_t shard, const psd_shardfile_t *file, psd_err_t *err)
{
    const psd_ckpt_facts_t *facts = &file->facts;
    const char *what = facts->clock != common->clock                    ? "clock"
                       : facts->shard != shard                          ? "shard"
                       : facts->n_shards != common->n_shards            ? "number of shards"
                       : strcmp(facts->job, common->job) != 0           ? "job"
                       : strcmp(facts->settings, common->settings) != 0 ? "settings"
                                                                        : NULL;
    return what ? psd_err_set(err, PSD_EDATA, "%s is of another %s than its checkpoint", file->st.path, what) : PSD_OK;
}

/* All chunks of a tensor have the same counters. */
static int count_chunk(walk_t *self, const psd_shardfile_t *file, uint32_t i, const psd_chunk_t *c, psd_err_t *err)
{
    psd_rule_state_t state, *known = &self->counters[c->tensor];
    int rc = psd_shardfile_state(file, i, &state, err);
    if (rc)
        return rc;
    if (self->counted[c->tensor] && memcmp(&state, known, sizeof state) != 0)
        return psd_err_set(err, PSD_EDATA, "%s: %.100s[%" PRIu64 "...] is of update %" PRIu64 ", another chunk of it of %" PRIu64,
                           file->st.path, self->manifest->model.tensor[c->tensor].name, c->offset, state.t, known->t);
    *known = state;
    self->counted[c->tensor] = 1;
    return PSD_OK;
}

/* The index of the worker's residual; facts->n_residuals if it has none that is complete. */
static uint32_t find_residual(const psd_ckpt_facts_t *facts, uint32_t worker)
{
    uint32_t k = 0;
    while (k < facts->n_residuals && (facts->residual[k].worker != worker || !facts->residual[k].is_whole))
        k++;
    return k;
}

/* Take the file's i-th group: note that its chunk was found, and read it when it is needed. */
static int take_chunk(walk_t *self, const psd_shardfile_t *file, uint32_t i, uint32_t *hint, psd_err_t *err)
{
    const psd_chunk_t *c = psd_shardfile_chunk(file, i, &self->manifest->model, self->map, hint, err);
    if (!c)
        return PSD_EDATA;
    uint8_t *seen = &self->seen[c - self->map->chunk];
    if (*seen)
        return psd_err_set(err, PSD_EDATA, "%s holds a chunk that another file holds too", file->st.path);
    *seen = 1;
    self->n_seen++;
    if (self->counters)
        return count_chunk(self, file, i, c, err);
    if (self->server != EVERYBODY && self->server != c->server)
        return PSD_OK;
    if (self->residual_target)
        return psd_shardfile_residual(file, i, find_residual(&file->facts, self->worker),
                                      self->residual_target(self->arg, c->index), err);
    const psd_ckpt_target_t to = self->target(self->arg, c->index);
    int rc = psd_shardfile_read(file, i, &to, err);
    for (uint32_t k = 0; !rc && self->scratch && k < file->facts.n_residuals; k++)
        if (file->facts.residual[k].is_whole)
            rc = psd_shardfile_residual(file, i, k, self->scratch, err);
    return rc || !self->each ? rc : self->each(self->each_arg, c, &to, err);
}

static int walk_file(walk_t *self, const psd_shardfile_t *file, uint32_t shard, psd_err_t *err)
{
    uint32_t hint = 0;
    if (shard == 0)
        self->first = file->groups;
    int rc = check_facts(&self->manifest->facts, shard, file, err);
    for (uint32_t t = 0; !rc && t < self->manifest->model.n; t++)
        rc = check_rule(self->groups ? self->groups : &self->first, file, self->manifest->model.tensor[t].name,
                        &self->map->tensor[t].shape, err);
    if (!rc && self->residual_target && file->n_parts && find_residual(&file->facts, self->worker) == file->facts.n_residuals)
        rc = psd_err_set(err, PSD_EDATA, "%s does not hold the residual of worker %" PRIu32 " whole", file->st.path, self->worker);
    for (uint32_t i = 0; !rc && i < file->n_parts; i++)
        rc = take_chunk(self, file, i, &hint, err);
    return rc ? rc : merge_applied(&self->applied, &self->n_applied, &file->facts, err);
}

static int walk_files(walk_t *self, psd_err_t *err)
{
    int rc = PSD_OK;
    if (!(self->seen = calloc(self->map->n_chunks, 1)))
        return psd_err_set(err, PSD_ENOMEM, "no memory for a list of %" PRIu32 " chunks", self->map->n_chunks);
    for (uint32_t i = 0; !rc && i < self->manifest->facts.n_shards; i++) {
        psd_shardfile_t file;
        rc = open_listed(&file, self->dir, self->manifest, i, false, err);
        if (!rc)
            rc = walk_file(self, &file, i, err);
        psd_shardfile_close(&file);
    }
    if (!rc && self->n_seen != self->map->n_chunks)
        rc = psd_err_set(err, PSD_EDATA, "the files of clock %" PRIu64 " hold %" PRIu32 " of the model's %" PRIu32 " chunks",
                         self->manifest->facts.clock, self->n_seen, self->map->n_chunks);
    return rc;
}

static void walk_clear(walk_t *self)
{
    free(self->seen);
    free(self->counted);
    free(self->applied);
}

static int load(walk_t *walk, const psd_tensor_list_t *model, psd_err_t *err)
{
    int rc = psd_tensors_compare(model, &walk->manifest->model, err);
    if (!rc)
        return walk_files(walk, err);
    psd_err_wrap(err, "the checkpoint of clock %" PRIu64 " is of another model", walk->manifest->facts.clock);
    if (err)
        err->code = PSD_EDATA;
    return PSD_EDATA;
}

int psd_ckpt_load(const char *dir, uint64_t clock, const psd_tensor_list_t *model, const psd_partition_t *map, uint32_t server,
                  const psd_groups_t *groups, psd_ckpt_target_t (*target)(void *arg, uint32_t chunk), void *arg,
                  psd_applied_t **applied, uint32_t *n_applied, psd_err_t *err)
{
    assert(server < map->n_servers);
    psd_manifest_t manifest;
    walk_t walk = {
        .dir = dir, .manifest = &manifest, .map = map, .groups = groups, .server = server, .target = target, .arg = arg
    };
    int rc = read_manifest(&manifest, dir, clock, err);
    if (!rc)
        rc = load(&walk, model, err);
    if (applied) {
        *applied = rc ? NULL : walk.applied;
        *n_applied = rc ? 0 : walk.n_applied;
        walk.applied = rc ? walk.applied : NULL;
    }
    walk_clear(&walk);
    psd_manifest_clear(&manifest);
    return rc;
}

int psd_ckpt_load_residual(const char *dir, uint64_t clock, const psd_tensor_list_t *model, const psd_partition_t *map,
                           uint32_t server, uint32_t worker, float *(*target)(void *arg, uint32_t chunk), void *arg, psd_err_t *err)
{
    assert(server < map->n_servers);
    psd_manifest_t manifest;
    walk_t walk = {
        .dir = dir, .manifest = &manifest, .map = map, .server = server, .residual_target = target, .worker = worker, .arg = arg
    };
    int rc = read_manifest(&manifest, dir, clock, err);
    if (!rc)
        rc = load(&walk, model, err);
    walk_clear(&walk);
    psd_manifest_clear(&manifest);
    return rc;
}

/* Keep those of the `*n` workers whose residual is complete in this file. */
static void keep_whole(uint32_t *workers, uint32_t *n, const psd_ckpt_facts_t *facts)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < *n; i++)
        if (find_residual(facts, workers[i]) < facts->n_residuals)
            workers[kept++] = workers[i];
    *n = kept;
}

int psd_ckpt_residuals(const char *dir, uint64_t clock, uint32_t **workers, uint32_t *n, psd_err_t *err)
{
    psd_manifest_t manifest;
    *n = 0;
    *workers = NULL;
    int rc = read_manifest(&manifest, dir, clock, err);
    for (uint32_t i = 0; !rc && i < manifest.facts.n_shards; i++) {
        psd_shardfile_t file;
        rc = open_listed(&file, dir, &manifest, i, false, err);
        if (!rc && file.n_parts && !*workers) { /* the first one that holds something */
            if (!(*workers = calloc(file.facts.n_residuals + 1, sizeof **workers)))
                rc = psd_err_set(err, PSD_ENOMEM, "no memory for %" PRIu32 " workers", file.facts.n_residuals);
            for (uint32_t k = 0; !rc && k < file.facts.n_residuals; k++)
                (*workers)[(*n)++] = file.facts.residual[k].worker;
        }
        if (!rc && file.n_parts)
            keep_whole(*workers, n, &file.facts);
        psd_shardfile_close(&file);
    }
    psd_manifest_clear(&manifest);
    return rc;
}

/* The chunks of a model, as a map with one server: a reader does not need to know which server holds a chunk. */
static int make_map(psd_partition_t *map, const psd_tensor_list_t *model, uint32_t n_servers, psd_err_t *err)
{
    psd_extent_t *extents = psd_tensors_extents(model);
    const int rc = extents ? psd_partition_cut(map, extents, model->n, n_servers, PSD_MOST_OF_PART, err)
                           : psd_err_set(err, PSD_ENOMEM, "no memory for the sizes of %u tensors", model->n);
    free(extents);
    return rc;
}

/* A buffer for chunks that are only checked. */
typedef struct scratch {
    float array[1 + PSD_MAX_SLOTS][PSD_MAX_CHUNK], residual[PSD_MAX_CHUNK];
    psd_rule_state_t state;
} scratch_t;

static psd_ckpt_target_t to_scratch(void *arg, uint32_t chunk)
{
    scratch_t *scratch = arg;
    psd_ckpt_target_t to = { .w = scratch->array[0], .state = &scratch->state };
    (void)chunk;
    for (int s = 0; s < PSD_MAX_SLOTS; s++)
        to.slot[s] = scratch->array[1 + s];
    return to;
}

int psd_ckpt_each(const char *dir, uint64_t clock, const psd_tensor_list_t *model,
                  int (*each)(void *arg, const psd_chunk_t *chunk, const psd_ckpt_target_t *data, psd_err_t *err), void *arg,
                  psd_err_t *err)
{
    psd_manifest_t manifest;
    psd_partition_t map = { 0 };
    scratch_t *scratch = malloc(sizeof *scratch);
    int rc = read_manifest(&manifest, dir, clock, err);
    if (!rc && !scratch)
        rc = psd_err_set(err, PSD_ENOMEM, "no memory to check a checkpoint");
    if (!rc && !(rc = make_map(&map, &manifest.model, manifest.facts.n_shards, err))) {
        walk_t walk = { .dir = dir,
                        .manifest = &manifest,
                        .map = &map,
                        .server = EVERYBODY,
                        .target = to_scratch,
                        .arg = scratch,
                        .each = each,
                        .each_arg = arg,
                        .scratch = scratch->residual };
        rc = model ? load(&walk, model, err) : walk_files(&walk, err);
        walk_clear(&walk);
    }
    psd_partition_clear(&map);
    psd_manifest_clear(&manifest);
    free(scratch);
    return rc;
}

int psd_ckpt_verify(const char *dir, uint64_t clock, psd_err_t *err) { return psd_ckpt_each(dir, clock, NULL, NULL, NULL, err); }

int psd_ckpt_counters(const char *dir, uint64_t clock, const psd_tensor_list_t *model, psd_groups_t *groups,
                      psd_rule_state_t *state, psd_err_t *err)
{
    psd_manifest_t manifest;
    psd_partition_t map = { 0 };
    int rc = read_manifest(&manifest, dir, clock, err);
    if (!rc && !(rc = make_map(&map, &manifest.model, manifest.facts.n_shards, err))) {
        walk_t walk = { .dir = dir,
                        .manifest = &manifest,
                        .map = &map,
                        .server = NOBODY,
                        .counters = state,
                        .counted = calloc(manifest.model.n, 1) };
        rc = walk.counted ? load(&walk, model, err) : psd_err_set(err, PSD_ENOMEM, "no memory to read counters");
        *groups = walk.first;
        walk_clear(&walk);
    }
    psd_partition_clear(&map);
    psd_manifest_clear(&manifest);
    return rc;
}

/* ---- pruning ---- */

/* What to remove, decided before anything is removed. */
typedef struct pruning {
    const char *dir;
    bool dry;
    void (*tell)(void *arg, const char *path);
    void *arg;
    uint64_t newest; /* whole checkpoint: a server may still be writing later ones */
    uint64_t oldest; /* whole one that is kept */
    uint64_t spared; /* kept whatever its place */
    int code;        /* PSD_OK, or the first failure */
    psd_err_t *err;
} pruning_t;

static void drop(pruning_t *self, const char *path, bool is_dir)
{
    if (self->tell && !is_dir)
        self->tell(self->arg, path);
    if (self->dry)
        return;
    PSD_FAILPOINT("disk.prune", NULL);
    /* A directory that contains other files stays. */
    if ((is_dir ? rmdir(path) : unlink(path)) && errno != ENOENT && errno != ENOTEMPTY && errno != EEXIST && self->code == PSD_OK)
        self->code = psd_err_set(self->err, PSD_EIO, "cannot remove %s: %s", path, strerror(errno));
}

/* Whether psd wrote this file in a clock's directory; `*whole` when it is not a temporary one. */
static bool is_ours(const char *name, bool *whole)
{
    char ours[48];
    if (strncmp(name, "shard-", 6) != 0)
        return false;
    snprintf(ours, sizeof ours, "shard-%lu.safetensors", strtoul(name + 6, NULL, 10));
    *whole = strcmp(name, ours) == 0;
    return *whole || psd_durable_is_temporary(name, ours);
}

/* Remove psd's files of `clock`: all of them and the directory, or only the temporary ones. */
static void drop_files(pruning_t *self, uint64_t clock, bool all)
{
    char path[PATH_MAX], file[PATH_MAX + 300];
    bool whole;
    clock_path(path, self->dir, clock);
    DIR *names = opendir(path);
    for (struct dirent *name; names && (name = readdir(names));)
        if (is_ours(name->d_name, &whole) && (all || !whole)) {
            snprintf(file, sizeof file, "%s/%s", path, name->d_name);
            drop(self, file, false);
        }
    if (names)
        closedir(names);
    if (all)
        drop(self, path, true);
}

static bool is_old(const pruning_t *self, uint64_t clock) { return clock < self->oldest && clock != self->spared; }

static void drop_manifests(pruning_t *self)
{
    char path[PATH_MAX];
    clocks_t found = find_manifests(self->dir);
    for (size_t i = 0; i < found.n; i++)
        if (is_old(self, found.at[i])) {
            manifest_path(path, self->dir, found.at[i]);
            drop(self, path, false);
        }
    free(found.at);
}

/* "MANIFEST-000000000042.json.<number>-<number>.tmp" */
static void drop_temporary_manifests(pruning_t *self)
{
    char path[PATH_MAX + 300], whole[64];
    DIR *names = opendir(self->dir);
    for (struct dirent *name; names && (name = readdir(names));) {
        const uint64_t clock = strncmp(name->d_name, "MANIFEST-", 9) ? 0 : strtoull(name->d_name + 9, NULL, 10);
        snprintf(whole, sizeof whole, "MANIFEST-%012" PRIu64 ".json", clock);
        if (clock <= self->newest && psd_durable_is_temporary(name->d_name, whole)) {
            snprintf(path, sizeof path, "%s/%s", self->dir, name->d_name);
            drop(self, path, false);
        }
    }
    if (names)
        closedir(names);
}

static void sync_dir(pruning_t *self)
{
    const int fd = open(self->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if ((fd < 0 || fsync(fd)) && self->code == PSD_OK)
        self->code = psd_err_set(self->err, PSD_EIO, "cannot flush %s: %s", self->dir, strerror(errno));
    if (fd >= 0)
        close(fd);
}

/* Whether a manifest of that clock exists, or may exist because the check failed. */
static bool is_committed(const char *dir, uint64_t clock)
{
    char path[PATH_MAX];
    struct stat info;
    manifest_path(path, dir, clock);
    return stat(path, &info) == 0 || errno != ENOENT;
}

/* Remove manifests first, and flush that to disk before removing any file that they list: at any moment, every listed checkpoint is
 * whole. */
static void drop_all(pruning_t *self)
{
    drop_manifests(self);
    drop_temporary_manifests(self);
    if (!self->dry)
        sync_dir(self);
    clocks_t found = find_clocks(self->dir, "", "");
    for (size_t i = 0; self->code == PSD_OK && i < found.n; i++) {
        const uint64_t clock = found.at[i];
        const bool unfinished = clock < self->newest && !is_committed(self->dir, clock);
        if (clock <= self->newest)
            drop_files(self, clock, is_old(self, clock) || unfinished);
    }
    free(found.at);
}

static int prune(pruning_t *self, uint32_t keep)
{
    keep = keep < FEWEST_KEPT ? FEWEST_KEPT : keep;
    clocks_t found = find_manifests(self->dir);
    uint32_t n = 0;
    for (size_t i = 0; n < keep && i < found.n; i++)
        if (is_whole(self->dir, found.at[i])) {
            self->newest = n == 0 ? found.at[i] : self->newest;
            self->oldest = ++n == keep ? found.at[i] : 0;
        }
    free(found.at);
    if (n > 0)
        drop_all(self);
    return self->code;
}

int psd_ckpt_prune(const char *dir, uint32_t keep, bool dry, void (*tell)(void *arg, const char *path), void *arg, psd_err_t *err)
{
    int rc = check_dir(dir, err);
    pruning_t pruning = { .dir = dir, .dry = dry, .tell = tell, .arg = arg, .spared = UINT64_MAX, .err = err };
    return rc ? rc : prune(&pruning, keep);
}

/* ---- committing ---- */

/* List the files as they are now. */
static int list_files(psd_manifest_t *manifest, const char *dir, psd_err_t *err)
{
    char path[PATH_MAX];
    int rc = PSD_OK;
    for (uint32_t i = 0; !rc && i < manifest->facts.n_shards; i++) {
        psd_shardfile_t file;
        shard_path(path, dir, manifest->facts.clock, i);
        rc = psd_shardfile_open(&file, path, true, err);
        manifest->file[i] = (psd_manifest_file_t){ file.st.n_bytes + file.st.n_data, file.crc };
        psd_shardfile_close(&file);
    }
    return rc;
}

/* Check that the files make up the whole model, before a manifest confirms it. */
static int check_files(const psd_manifest_t *manifest, const char *dir, psd_err_t *err)
{
    psd_partition_t map = { 0 };
    int rc = make_map(&map, &manifest->model, manifest->facts.n_shards, err);
    if (!rc) {
        walk_t walk = { .dir = dir, .manifest = manifest, .map = &map, .server = NOBODY };
        rc = walk_files(&walk, err);
        walk_clear(&walk);
    }
    psd_partition_clear(&map);
    return rc;
}

static int write_manifest(const psd_manifest_t *manifest, const char *dir, psd_err_t *err)
{
    char path[PATH_MAX];
    size_t n_bytes;
    char *text = psd_manifest_print(manifest, &n_bytes, err);
    if (!text)
        return PSD_EINVAL;
    manifest_path(path, dir, manifest->facts.clock);
    psd_durable_t *file = psd_durable_new(path, n_bytes, err);
    int rc = file ? psd_durable_write(file, text, n_bytes, 0, err) : PSD_EIO;
    if (!rc)
        rc = psd_durable_end(&file, err);
    psd_durable_abandon(&file);
    free(text);
    return rc;
}

int psd_ckpt_commit(const char *dir, const psd_ckpt_facts_t *facts, const psd_tensor_list_t *model, uint32_t keep, psd_err_t *err)
{
    assert(facts->n_shards > 0 && facts->n_shards <= PSD_MAX_SERVERS);
    psd_manifest_t manifest = { .facts = *facts, .model = *model }; /* borrowed: not cleared */
    int rc = check_dir(dir, err);
    if (rc == PSD_OK && (rc = list_files(&manifest, dir, err)) == PSD_ENOINPUT)
        psd_err_wrap(err, "a server's file is missing here, although that server has written it (all servers need one "
                          "checkpoint.dir, on a file system that they share)");
    if (rc || (rc = check_files(&manifest, dir, err)) || (rc = write_manifest(&manifest, dir, err)))
        return rc;
    /* The checkpoint counts, even if older ones cannot be removed; that failure is logged, so that the operator
     * knows. */
    psd_err_t why = { 0 };
    pruning_t pruning = { .dir = dir, .spared = facts->clock, .err = &why };
    if (prune(&pruning, keep) != PSD_OK)
        psd_log_warn("checkpoint.prune", "cannot remove old checkpoints why=\"%s\"", why.text);
    return PSD_OK;
}
