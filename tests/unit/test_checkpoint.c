#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/rng.h"
#include "common/system/safetensors.h"
#include "server/checkpoint/checkpoint.h"
#include "tests/support/alone.h"

TestSuite(checkpoint, .timeout = 600);

/* ---- a model, its state, and a directory ---- */

typedef struct data {
    float *w, *slot[PSD_MAX_SLOTS];
    psd_rule_state_t state;
} data_t;

static char dir[64];
static psd_err_t err;
static psd_rule_t rule;
static psd_tensor_list_t model;
static psd_partition_t one; /* all chunks on one server: the order in which data_t is stored */
static data_t *truth, *loaded;
static uint64_t seed;

static uint64_t draw(void)
{
    seed += UINT64_C(0x9e3779b97f4a7c15);
    uint64_t x = seed;
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

static float draw_float(void) { return (float)(draw() >> 40) / (1 << 24) - 0.5f; }

static void cut(psd_partition_t *map, uint32_t n_servers)
{
    psd_extent_t *extents = psd_tensors_extents(&model);
    cr_assert_eq(psd_partition_cut(map, extents, model.n, n_servers, 1, NULL), PSD_OK);
    free(extents);
}

static data_t *allocate(void)
{
    data_t *all = calloc(one.n_chunks, sizeof *all);
    for (uint32_t i = 0; i < one.n_chunks; i++) {
        all[i].w = calloc(one.chunk[i].n, sizeof(float));
        for (int s = 0; s < rule.n_slots; s++)
            all[i].slot[s] = calloc(one.chunk[i].n, sizeof(float));
    }
    return all;
}

/* Train every chunk for some steps, so that the state is as in a real job. */
static void train(uint32_t n_steps)
{
    float *g = malloc(PSD_MAX_CHUNK * sizeof *g);
    for (uint32_t i = 0; i < one.n_chunks; i++)
        for (uint32_t step = 0; step < n_steps; step++) {
            for (uint32_t k = 0; k < one.chunk[i].n; k++)
                g[k] = draw_float();
            psd_plan_t plan = psd_rule_plan(&rule, &truth[i].state, 0.01);
            psd_rule_apply(&rule, &plan, truth[i].w, truth[i].slot, g, one.chunk[i].n);
        }
    free(g);
}

static void add_tensor(const char *name, uint32_t n_dims, const uint64_t *dim)
{
    psd_tensor_desc_t *t = &model.tensor[model.n++];
    *t = (psd_tensor_desc_t){ .n_dims = n_dims, .n_elements = 1 };
    strcpy(t->name, name);
    for (uint32_t i = 0; i < n_dims; i++)
        t->n_elements *= t->dim[i] = dim[i];
}

static void begin_with(const char *spec)
{
    cr_assert_eq(psd_rule_parse(&rule, spec, &err), PSD_OK, "%s", err.text);
    cut(&one, 1);
    truth = allocate();
    loaded = allocate();
    for (uint32_t i = 0; i < one.n_chunks; i++) {
        for (uint32_t k = 0; k < one.chunk[i].n; k++)
            truth[i].w[k] = draw_float();
        psd_rule_init(&rule, &truth[i].state, truth[i].w, truth[i].slot, one.chunk[i].n);
    }
    train(7);
    strcpy(dir, "/tmp/psd-test-XXXXXX");
    cr_assert_not_null(mkdtemp(dir));
}

static void begin_model(const char *spec)
{
    model.tensor = calloc(16, sizeof *model.tensor);
    add_tensor("fc1.weight", 2, (const uint64_t[]){ 128, 100 });
    add_tensor("fc1[0]/\"b\\\" \xc3\xa9", 1, (const uint64_t[]){ 128 });
    add_tensor("fc2.weight", 2, (const uint64_t[]){ 10, 128 });
    add_tensor("scalar", 0, NULL);
    begin_with(spec);
}

static void begin_small(const char *spec)
{
    model.tensor = calloc(16, sizeof *model.tensor);
    add_tensor("a", 1, (const uint64_t[]){ 1100 });
    add_tensor("b", 1, (const uint64_t[]){ 3 });
    begin_with(spec);
}

static void remove_dir(void)
{
    char command[96];
    snprintf(command, sizeof command, "rm -rf %s", dir);
    cr_assert_eq(system(command), 0);
}

/* ---- saving and loading ---- */

static psd_applied_t applied[] = { { 0, 1, 41 }, { 3, UINT64_C(1) << 61, 42 } };
static psd_ckpt_facts_t facts_of(uint64_t clock, uint32_t shard, uint32_t n_shards)
{
    return (psd_ckpt_facts_t){ .job = "a job",
                               .settings = "mode=bsp \"x\"",
                               .clock = clock,
                               .version = clock + 1,
                               .samples = 64 * clock,
                               .view_id = 5,
                               .lr = 0.1,
                               .shard = shard,
                               .n_shards = n_shards,
                               .n_applied = 2,
                               .applied = applied };
}

static int save_shard(uint64_t clock, uint32_t shard, const psd_partition_t *map)
{
    const psd_ckpt_facts_t facts = facts_of(clock, shard, map->n_servers);
    psd_ckpt_writer_t *writer = psd_ckpt_begin(dir, &facts, &model, map, alone(&rule), &err);
    if (!writer)
        return err.code;
    for (uint32_t p = map->n_held[shard]; p-- > 0;) { /* in any order */
        const data_t *d = &truth[map->held[shard][p]];
        int rc = psd_ckpt_chunk(writer, p, d->w, d->slot, &d->state, &err);
        if (rc) {
            psd_ckpt_abandon(&writer);
            return rc;
        }
    }
    return psd_ckpt_end(&writer, &err);
}

static int save_to(uint64_t clock, uint32_t n_servers, uint32_t keep)
{
    psd_partition_t map;
    cut(&map, n_servers);
    int rc = PSD_OK;
    for (uint32_t s = 0; !rc && s < n_servers; s++)
        rc = save_shard(clock, s, &map);
    psd_ckpt_facts_t facts = facts_of(clock, 0, n_servers);
    if (!rc)
        rc = psd_ckpt_commit(dir, &facts, &model, keep, &err);
    psd_partition_clear(&map);
    return rc;
}

static void save(uint64_t clock, uint32_t n_servers) { cr_assert_eq(save_to(clock, n_servers, 2), PSD_OK, "%s", err.text); }

static const uint32_t *parts;
static psd_ckpt_target_t to_loaded(void *arg, uint32_t part)
{
    data_t *d = (data_t *)arg + parts[part];
    psd_ckpt_target_t to = { .w = d->w, .state = &d->state };
    memcpy(to.slot, d->slot, sizeof to.slot);
    return to;
}

static int load_with(uint64_t clock, uint32_t n_servers, const psd_tensor_list_t *list, const psd_rule_t *with)
{
    psd_partition_t map;
    cut(&map, n_servers);
    int rc = PSD_OK;
    for (uint32_t s = 0; !rc && s < n_servers; s++) {
        parts = map.held[s];
        psd_applied_t *rows = NULL;
        uint32_t n = 0;
        rc = psd_ckpt_load(dir, clock, list, &map, s, alone(with), to_loaded, loaded, &rows, &n, &err);
        if (!rc) {
            cr_assert_eq(n, 2);
            for (int i = 0; i < 2; i++)
                cr_assert(rows[i].worker == applied[i].worker && rows[i].incarnation == applied[i].incarnation &&
                          rows[i].clock == applied[i].clock);
        } else {
            cr_assert(!rows && n == 0);
        }
        free(rows);
    }
    psd_partition_clear(&map);
    return rc;
}

static int load(uint64_t clock, uint32_t n_servers) { return load_with(clock, n_servers, &model, &rule); }

static void forget(void)
{
    for (uint32_t i = 0; i < one.n_chunks; i++) {
        memset(loaded[i].w, 0xee, one.chunk[i].n * sizeof(float));
        for (int s = 0; s < rule.n_slots; s++)
            memset(loaded[i].slot[s], 0xee, one.chunk[i].n * sizeof(float));
        memset(&loaded[i].state, 0xee, sizeof loaded[i].state);
    }
}

static void assert_loaded(void)
{
    for (uint32_t i = 0; i < one.n_chunks; i++) {
        cr_assert_arr_eq(loaded[i].w, truth[i].w, one.chunk[i].n * sizeof(float));
        for (int s = 0; s < rule.n_slots; s++)
            cr_assert_arr_eq(loaded[i].slot[s], truth[i].slot[s], one.chunk[i].n * sizeof(float));
        cr_assert_eq(memcmp(&loaded[i].state, &truth[i].state, sizeof truth[i].state), 0);
    }
}

static void path_of(char path[160], uint64_t clock, uint32_t shard)
{
    snprintf(path, 160, "%s/%012" PRIu64 "/shard-%u.safetensors", dir, clock, shard);
}

static void manifest_of(char path[160], uint64_t clock) { snprintf(path, 160, "%s/MANIFEST-%012" PRIu64 ".json", dir, clock); }

static uint8_t *read_all(const char *path, size_t *n)
{
    FILE *file = fopen(path, "rb");
    cr_assert_not_null(file, "%s", path);
    fseek(file, 0, SEEK_END);
    *n = (size_t)ftell(file);
    rewind(file);
    uint8_t *bytes = malloc(*n + 1);
    cr_assert_eq(fread(bytes, 1, *n, file), *n);
    fclose(file);
    return bytes;
}

static void write_all(const char *path, const void *bytes, size_t n)
{
    FILE *file = fopen(path, "wb");
    cr_assert_eq(fwrite(bytes, 1, n, file), n);
    cr_assert_eq(fclose(file), 0);
}

static bool is_listed(uint64_t clock)
{
    uint64_t clocks[16];
    size_t n = psd_ckpt_list(dir, clocks, 16);
    for (size_t i = 0; i < n; i++)
        if (clocks[i] == clock)
            return true;
    return false;
}

/* Names below `where` that hold `part`. */
static int count_names(const char *where, const char *part)
{
    int n = 0;
    DIR *names = opendir(where);
    for (struct dirent *name; names && (name = readdir(names));)
        n += name->d_name[0] != '.' && strstr(name->d_name, part);
    if (names)
        closedir(names);
    return n;
}

static int count_temporary(uint64_t clock)
{
    char path[160];
    snprintf(path, sizeof path, "%s/%012" PRIu64, dir, clock);
    return count_names(dir, ".tmp") + count_names(path, ".tmp");
}

/* ---- what is saved is loaded ---- */

static void round_trip(const char *spec)
{
    begin_model(spec);
    save(42, 2);
    forget();
    cr_assert_eq(load(42, 2), PSD_OK, "%s", err.text);
    assert_loaded();
    cr_assert_eq(psd_ckpt_verify(dir, 42, &err), PSD_OK, "%s", err.text);
    cr_assert_eq(count_temporary(42), 0);
    remove_dir();
}

Test(checkpoint, sgd_has_no_state_arrays_and_comes_back) { round_trip("sgd"); }
Test(checkpoint, adam_comes_back_bit_for_bit) { round_trip("adam"); }
Test(checkpoint, lookahead_comes_back_with_slow_weights_and_its_syncs) { round_trip("lookahead(radam, k=3)"); }
Test(checkpoint, nadam_comes_back_with_its_product_in_double)
{
    round_trip("nadam");
    cr_assert_neq(loaded[0].state.scalar[0], (double)(float)loaded[0].state.scalar[0], "a double that is not a float");
}

Test(checkpoint, any_number_of_servers_loads_what_any_number_saved)
{
    const uint32_t before[] = { 1, 4, 5 }, after[] = { 1, 3, 4, 7, 64 };
    begin_model("lookahead(adam, k=5)");
    for (size_t b = 0; b < 3; b++) {
        save(100 + b, before[b]);
        for (size_t a = 0; a < 5; a++) {
            forget();
            cr_assert_eq(load(100 + b, after[a]), PSD_OK, "%s", err.text);
            assert_loaded();
        }
    }
    remove_dir();
}

/* A matrix of 128 rows and 100 columns stores 128 and 100 numbers, with its first chunk; a vector stores one per element. */
Test(checkpoint, state_that_is_shorter_than_its_tensor_takes_its_own_room_and_comes_back_on_any_number_of_servers)
{
    char path[160];
    size_t n_values = 0, n_bytes;
    begin_model("adafactor");
    for (uint32_t i = 0; i < one.n_chunks; i++) {
        const psd_chunk_t *c = &one.chunk[i];
        n_values += c->n;
        for (int s = 0; s < rule.n_slots; s++) {
            const size_t n = psd_rule_slot_elements(&rule, s, &one.tensor[c->tensor], c->offset, c->n);
            n_values += n;
            for (uint32_t k = 0; k < c->n; k++)
                truth[i].slot[s][k] = k < n ? draw_float() : 0;
        }
    }
    cr_expect_eq(n_values, (12800 + 228) + (128 + 128) + (1280 + 138) + (1 + 1));
    for (uint32_t servers = 1; servers <= 3; servers++) {
        save(servers, servers);
        for (uint32_t others = 1; others <= 3; others++) {
            for (uint32_t i = 0; i < one.n_chunks; i++)
                for (int s = 0; s < rule.n_slots; s++)
                    memset(loaded[i].slot[s], 0, one.chunk[i].n * sizeof(float));
            cr_assert_eq(load(servers, others), PSD_OK, "%s", err.text);
            assert_loaded();
        }
        cr_expect_eq(psd_ckpt_verify(dir, servers, &err), PSD_OK, "%s", err.text);
    }
    save(4, 1);
    path_of(path, 4, 0);
    free(read_all(path, &n_bytes));
    cr_expect_eq(n_bytes % 4096, n_values * sizeof(float) % 4096, "no room for arrays that are not stored");
    remove_dir();
}

Test(checkpoint, a_server_without_chunks_has_a_file_too)
{
    begin_small("adam");
    save(7, 5);
    forget();
    cr_assert_eq(load(7, 2), PSD_OK, "%s", err.text);
    assert_loaded();
    remove_dir();
}

Test(checkpoint, a_shards_file_is_a_safetensors_file_with_an_entry_per_chunk_and_array)
{
    char path[160];
    begin_model("adam");
    save(42, 1);
    path_of(path, 42, 0);
    psd_safetensors_t st;
    cr_assert_eq(psd_safetensors_open(&st, path, &err), PSD_OK, "%s", err.text);
    cr_assert_eq(psd_safetensors_parse(&st, &err), PSD_OK, "%s", err.text);
    cr_assert_eq(st.n_bytes % 4096, 0);
    cr_assert_eq(st.n_entries, 3 * one.n_chunks);
    cr_assert_str_eq(st.entry[0].name, "fc1.weight[0:1024]");
    cr_assert_str_eq(st.entry[1].name, "fc1.weight[0:1024]/exp_avg");
    cr_assert_str_eq(st.entry[2].name, "fc1.weight[0:1024]/exp_avg_sq");
    cr_assert_str_eq(psd_safetensors_note(&st, "psd.settings"), "mode=bsp \"x\"");
    cr_assert_str_eq(psd_safetensors_note(&st, "psd.clock"), "42");
    psd_safetensors_close(&st);
    remove_dir();
}

Test(checkpoint, the_manifest_gives_back_facts_and_model)
{
    psd_ckpt_facts_t facts;
    psd_tensor_list_t list;
    begin_model("adam");
    save(42, 3);
    cr_assert_eq(psd_ckpt_read(dir, 42, &facts, &list, &err), PSD_OK, "%s", err.text);
    cr_assert(facts.clock == 42 && facts.version == 43 && facts.samples == 64 * 42 && facts.view_id == 5 && facts.lr == 0.1);
    cr_assert_eq(facts.n_shards, 3);
    cr_assert_str_eq(facts.job, "a job");
    cr_assert_str_eq(facts.settings, "mode=bsp \"x\"");
    cr_assert_eq(psd_tensors_compare(&list, &model, &err), PSD_OK, "%s", err.text);
    psd_ckpt_facts_clear(&facts);
    psd_tensors_clear(&list);
    cr_assert_eq(psd_ckpt_read(dir, 41, &facts, &list, &err), PSD_ENOINPUT);
    cr_assert_eq(psd_ckpt_list("/nonexistent/x", &(uint64_t){ 0 }, 1), 0);
    remove_dir();
}

static double next_lr(const char *settings, uint64_t rows, double *momentum)
{
    psd_ckpt_facts_t facts = { .settings = (char *)(uintptr_t)settings, .lr = 0.5, .version = 20, .samples = 600 };
    return psd_ckpt_next_lr(&facts, rows, momentum);
}

Test(checkpoint, the_learning_rate_of_the_next_step_is_the_schedules)
{
#define OTHERS_BEFORE "servers=2 mode=bsp optimizer=adam(lr=0.25, beta1=0.9)"
#define OTHERS_BEHIND " clip_norm=1 codec_push=int8 checkpoints=yes"
    double momentum = 0;
    cr_expect_eq(next_lr(OTHERS_BEFORE OTHERS_BEHIND, 0, &momentum), 0.5, "constant");
    cr_expect(isnan(momentum));
    /* 0.5 after 20 of 80 steps, 600 of 800 samples, 1.5 of 6 epochs */
    cr_expect_float_eq(next_lr(OTHERS_BEFORE
                               " schedule=linear(steps=80, start_factor=1, end_factor=0) schedule_unit=step" OTHERS_BEHIND,
                               0, &momentum),
                       0.375, 1e-15);
    cr_expect_float_eq(next_lr(OTHERS_BEFORE " schedule=linear(steps=800) schedule_unit=sample", 0, &momentum), 0.125, 1e-15);
    cr_expect_float_eq(next_lr(OTHERS_BEFORE " schedule=linear(steps=6) schedule_unit=epoch", 400, &momentum), 0.375, 1e-15);
    cr_expect(isnan(momentum));
    /* At the peak of the rate, after 0.2 of 100 steps, the momentum is lowest. */
    cr_expect_float_eq(next_lr(OTHERS_BEFORE " schedule=onecycle(steps=100, pct_start=0.21) schedule_unit=step", 0, &momentum), 0.5,
                       1e-15);
    cr_expect_float_eq(momentum, 0.85, 1e-15);
}

Test(checkpoint, chunks_of_a_tensor_that_have_made_different_updates_are_damage)
{
    psd_groups_t found;
    psd_rule_state_t state[2] = { { .t = 0 } };
    begin_small("adam"); /* the first tensor has two chunks */
    save(42, 1);
    cr_assert_eq(psd_ckpt_counters(dir, 42, &model, &found, state, &err), PSD_OK, "%s", err.text);
    cr_expect_eq(state[0].t, truth[0].state.t);
    truth[1].state.t++;
    save(43, 1);
    cr_expect_eq(psd_ckpt_counters(dir, 43, &model, &found, state, &err), PSD_EDATA);
    cr_expect_not_null(strstr(err.text, "another chunk of it of "), "%s", err.text);
    remove_dir();
}

/* One server holds the only chunk, however many there are. */
Test(checkpoint, a_file_of_a_checkpoint_on_more_servers_is_not_committed_as_one_on_fewer)
{
    psd_partition_t map;
    model.tensor = calloc(16, sizeof *model.tensor);
    add_tensor("a", 1, (const uint64_t[]){ 3 });
    begin_with("adam");
    cr_assert_eq(psd_partition_make(&map, (const uint64_t[]){ 3 }, 1, 2, PSD_MOST_OF_PART, &err), PSD_OK);
    const uint32_t holder = map.n_held[0] ? 0 : 1;
    cr_assert_eq(holder, 0, "the first chunk is server 0's");
    cr_assert_eq(save_shard(42, 0, &map), PSD_OK, "%s", err.text);
    const psd_ckpt_facts_t facts = facts_of(42, 0, 1);
    cr_expect_eq(psd_ckpt_commit(dir, &facts, &model, 2, &err), PSD_EDATA);
    cr_expect_not_null(strstr(err.text, "is of another number of shards than its checkpoint"), "%s", err.text);
    psd_partition_clear(&map);
    remove_dir();
}

Test(checkpoint, another_model_or_optimizer_is_refused_and_other_hyper_parameters_are_not)
{
    psd_rule_t other;
    psd_tensor_list_t list;
    begin_model("adam");
    save(42, 2);
    cr_assert_eq(psd_rule_parse(&other, "adam(lr=0.5)", NULL), PSD_OK);
    cr_assert_eq(load_with(42, 1, &model, &other), PSD_OK, "%s", err.text);
    cr_assert_eq(psd_rule_parse(&other, "adamw", NULL), PSD_OK);
    cr_assert_eq(load_with(42, 1, &model, &other), PSD_EDATA);
    cr_assert(strstr(err.text, "saved by adam("), "%s", err.text);
    cr_assert_eq(psd_rule_parse(&other, "lookahead(adam)", NULL), PSD_OK);
    cr_assert_eq(load_with(42, 1, &model, &other), PSD_EDATA);
    cr_assert_eq(psd_tensors_copy(&list, &model), PSD_OK);
    list.tensor[0].dim[0] = 100, list.tensor[0].dim[1] = 128;
    cr_assert_eq(load_with(42, 1, &list, &rule), PSD_EDATA);
    cr_assert_str_eq(err.text, "the checkpoint of clock 42 is of another model: its tensor 0 is fc1.weight [128, 100], "
                               "the job's is fc1.weight [100, 128]");
    psd_tensors_clear(&list);
    remove_dir();
}

/* ---- residuals ---- */

/* The residual that worker `w` has of a chunk of the model. */
static void make_residual(uint32_t w, uint32_t chunk, float *kept)
{
    for (uint32_t k = 0; k < one.chunk[chunk].n; k++)
        kept[k] = (float)(100 * w + chunk) + 0.001f * (float)k;
}

/* A checkpoint of two servers with room for the residuals of workers 1, 4 and 7; of worker 4's residual, server 1 does not get the
 * last chunk. */
static void save_residuals(void)
{
    psd_partition_t map;
    float *kept = malloc(PSD_MAX_CHUNK * sizeof *kept);
    cut(&map, 2);
    for (uint32_t s = 0; s < 2; s++) {
        psd_ckpt_residual_t of[] = { { .worker = 1 }, { .worker = 4 }, { .worker = 7 } };
        psd_ckpt_facts_t facts = facts_of(9, s, 2);
        facts.residual = of;
        facts.n_residuals = 3;
        psd_ckpt_writer_t *writer = psd_ckpt_begin(dir, &facts, &model, &map, alone(&rule), &err);
        cr_assert_not_null(writer, "%s", err.text);
        for (uint32_t c = 0; c < map.n_held[s]; c++) {
            const data_t *d = &truth[map.held[s][c]];
            cr_assert_eq(psd_ckpt_chunk(writer, c, d->w, d->slot, &d->state, &err), PSD_OK);
            for (uint32_t i = 0; i < 3; i++) {
                make_residual(of[i].worker, map.held[s][c], kept);
                if (i != 1 || s != 1 || c + 1 < map.n_held[s])
                    cr_assert_eq(psd_ckpt_residual(writer, i, c, kept, &err), PSD_OK);
            }
        }
        cr_assert_eq(psd_ckpt_end(&writer, &err), PSD_OK, "%s", err.text);
    }
    psd_ckpt_facts_t facts = facts_of(9, 0, 2);
    cr_assert_eq(psd_ckpt_commit(dir, &facts, &model, 2, &err), PSD_OK, "%s", err.text);
    psd_partition_clear(&map);
    free(kept);
}

static float *residual_to_loaded(void *arg, uint32_t chunk) { return ((data_t *)arg)[parts[chunk]].w; }

static int load_residual(uint32_t n_servers, uint32_t worker)
{
    psd_partition_t map;
    cut(&map, n_servers);
    int rc = PSD_OK;
    for (uint32_t s = 0; !rc && s < n_servers; s++) {
        parts = map.held[s];
        rc = psd_ckpt_load_residual(dir, 9, &model, &map, s, worker, residual_to_loaded, loaded, &err);
    }
    psd_partition_clear(&map);
    return rc;
}

Test(checkpoint, residuals_come_back_whole_on_any_number_of_servers_and_change_nothing_else)
{
    uint32_t *workers, n;
    float *kept = malloc(PSD_MAX_CHUNK * sizeof *kept);
    begin_model("adam");
    save_residuals();
    cr_assert_eq(psd_ckpt_residuals(dir, 9, &workers, &n, &err), PSD_OK, "%s", err.text);
    cr_assert(n == 2 && workers[0] == 1 && workers[1] == 7, "that of 4 is not whole");
    free(workers);
    for (uint32_t servers = 1; servers <= 3; servers++) {
        for (uint32_t w = 1; w <= 7; w += 6) {
            forget();
            cr_assert_eq(load_residual(servers, w), PSD_OK, "%s", err.text);
            for (uint32_t i = 0; i < one.n_chunks; i++) {
                make_residual(w, i, kept);
                cr_expect_arr_eq(loaded[i].w, kept, one.chunk[i].n * sizeof *kept);
            }
        }
        cr_expect_eq(load_residual(servers, 4), PSD_EDATA);
        cr_expect(strstr(err.text, "does not hold the residual of worker 4 whole"), "%s", err.text);
        forget();
        cr_assert_eq(load(9, servers), PSD_OK, "%s", err.text);
        assert_loaded();
    }
    cr_expect_eq(psd_ckpt_verify(dir, 9, &err), PSD_OK, "%s", err.text);
    remove_dir();
    free(kept);
}

Test(checkpoint, a_damaged_residual_is_found_and_no_other_is_lost)
{
    char path[160];
    begin_model("sgd");
    save_residuals();
    path_of(path, 9, 0);
    FILE *file = fopen(path, "r+");
    cr_assert(file && fseek(file, -1, SEEK_END) == 0); /* the last array of a group belongs to worker 7 */
    const int last = fgetc(file);
    fseek(file, -1, SEEK_END);
    fputc(last ^ 1, file);
    fclose(file);
    cr_expect_eq(load_residual(2, 7), PSD_EDATA);
    cr_expect(strstr(err.text, "/residual.7 is damaged"), "%s", err.text);
    cr_expect_eq(load_residual(2, 1), PSD_OK, "%s", err.text);
    cr_expect_eq(psd_ckpt_verify(dir, 9, &err), PSD_EDATA);
    remove_dir();
}

Test(checkpoint, a_push_that_one_old_shard_applied_is_not_applied_again_by_a_new_one)
{
    begin_model("sgd");
    psd_partition_t map;
    cut(&map, 2);
    applied[0].clock = 50;
    cr_assert_eq(save_shard(9, 0, &map), PSD_OK);
    applied[0].clock = 41;
    cr_assert_eq(save_shard(9, 1, &map), PSD_OK);
    psd_ckpt_facts_t facts = facts_of(9, 0, 2);
    cr_assert_eq(psd_ckpt_commit(dir, &facts, &model, 2, &err), PSD_OK, "%s", err.text);
    psd_applied_t *rows;
    uint32_t n;
    /* The same layout: the later count of both for each worker, so that all servers count a worker's pushes alike. */
    for (uint32_t s = 0; s < 2; s++) {
        parts = map.held[s];
        cr_assert_eq(psd_ckpt_load(dir, 9, &model, &map, s, alone(&rule), to_loaded, loaded, &rows, &n, &err), PSD_OK);
        cr_assert(n == 2 && rows[0].clock == 50);
        free(rows);
    }
    /* With another layout too. */
    parts = one.held[0];
    cr_assert_eq(psd_ckpt_load(dir, 9, &model, &one, 0, alone(&rule), to_loaded, loaded, &rows, &n, &err), PSD_OK);
    cr_assert(n == 2 && rows[0].clock == 50);
    free(rows);
    psd_partition_clear(&map);
    remove_dir();
}

Test(checkpoint, the_newer_of_a_workers_two_lives_continues_however_little_it_has_pushed)
{
    begin_model("sgd");
    psd_partition_t map;
    cut(&map, 2);
    for (uint32_t newer = 0; newer < 2; newer++) { /* whichever server has counted it */
        for (uint32_t s = 0; s < 2; s++) {
            applied[0].incarnation = s == newer ? 8 : 7;
            applied[0].clock = s == newer ? 3 : 50;
            cr_assert_eq(save_shard(9 + newer, s, &map), PSD_OK);
        }
        psd_ckpt_facts_t facts = facts_of(9 + newer, 0, 2);
        cr_assert_eq(psd_ckpt_commit(dir, &facts, &model, 2, &err), PSD_OK, "%s", err.text);
        psd_applied_t *rows;
        uint32_t n;
        parts = one.held[0];
        cr_assert_eq(psd_ckpt_load(dir, 9 + newer, &model, &one, 0, alone(&rule), to_loaded, loaded, &rows, &n, &err), PSD_OK);
        cr_expect(n == 2 && rows[0].incarnation == 8 && rows[0].clock == 3, "incarnation %d, clock %d", (int)rows[0].incarnation,
                  (int)rows[0].clock);
        free(rows);
    }
    psd_partition_clear(&map);
    remove_dir();
}

/* ---- damage
 * --------------------------------------------------------------------------------------------------------- */

/* Flip each bit of [from, to) of the file at `path`; the checkpoint of clock 42 must be found damaged each
 * time. */
static void flip_each_bit(const char *path, size_t from, size_t to)
{
    size_t n;
    uint8_t *bytes = read_all(path, &n);
    int fd = open(path, O_WRONLY);
    cr_assert(fd >= 0 && to <= n);
    for (size_t bit = 8 * from; bit < 8 * to; bit++) {
        const uint8_t wrong = bytes[bit / 8] ^ (uint8_t)(1 << bit % 8);
        cr_assert_eq(pwrite(fd, &wrong, 1, (off_t)(bit / 8)), 1);
        cr_assert_neq(psd_ckpt_verify(dir, 42, &err), PSD_OK, "bit %zu", bit);
        cr_assert(!is_listed(42), "bit %zu", bit);
        cr_assert_eq(pwrite(fd, &bytes[bit / 8], 1, (off_t)(bit / 8)), 1);
    }
    close(fd);
    free(bytes);
    cr_assert_eq(psd_ckpt_verify(dir, 42, &err), PSD_OK, "%s", err.text);
}

Test(checkpoint, every_flipped_bit_of_a_header_is_found)
{
    char path[160];
    begin_small("adam");
    save(42, 1);
    path_of(path, 42, 0);
    flip_each_bit(path, 0, 4096);
    remove_dir();
}

Test(checkpoint, every_flipped_bit_of_a_manifest_is_found)
{
    char path[160];
    size_t n;
    begin_small("adam");
    save(42, 2);
    manifest_of(path, 42);
    free(read_all(path, &n));
    flip_each_bit(path, 0, n);
    remove_dir();
}

Test(checkpoint, flipped_bits_of_data_are_found)
{
    char path[160];
    size_t n;
    begin_model("adam");
    save(42, 1);
    path_of(path, 42, 0);
    uint8_t *bytes = read_all(path, &n);
    size_t data = 8;
    for (int i = 7; i >= 0; i--)
        data += (size_t)bytes[i] << 8 * i;
    int fd = open(path, O_WRONLY);
    const int flips = getenv("PSD_CAMPAIGN") ? 100000 : 2000;
    for (int k = 0; k < flips; k++) {
        const size_t bit = 8 * data + draw() % (8 * (n - data));
        const uint8_t wrong = bytes[bit / 8] ^ (uint8_t)(1 << bit % 8);
        cr_assert_eq(pwrite(fd, &wrong, 1, (off_t)(bit / 8)), 1);
        cr_assert_eq(psd_ckpt_verify(dir, 42, &err), PSD_EDATA, "bit %zu", bit);
        cr_assert(strstr(err.text, "is damaged: its CRC differs"), "%s", err.text);
        if (k % 100 == 0)
            cr_assert_eq(load(42, 1), PSD_EDATA);
        cr_assert_eq(pwrite(fd, &bytes[bit / 8], 1, (off_t)(bit / 8)), 1);
    }
    close(fd);
    free(bytes);
    cr_assert_eq(load(42, 1), PSD_OK, "%s", err.text);
    remove_dir();
}

static void assert_shortened_is_found(const char *path, size_t length)
{
    psd_safetensors_t st;
    cr_assert_eq(truncate(path, (off_t)length), 0);
    cr_assert_eq(psd_ckpt_verify(dir, 42, &err), PSD_EDATA, "length %zu", length);
    cr_assert(!is_listed(42));
    /* The file alone is no longer accepted either. */
    cr_assert(psd_safetensors_open(&st, path, &err) != PSD_OK || psd_safetensors_parse(&st, &err) != PSD_OK);
    psd_safetensors_close(&st);
}

Test(checkpoint, a_file_of_any_other_length_is_found)
{
    char path[160];
    size_t n;
    begin_model("adam");
    save(42, 1);
    path_of(path, 42, 0);
    uint8_t *bytes = read_all(path, &n);
    for (size_t length = (n - 1) / 4096 * 4096;; length -= 4096) {
        assert_shortened_is_found(path, length);
        if (length == 0)
            break;
    }
    write_all(path, bytes, n);
    for (int k = 0; k < 200; k++) {
        assert_shortened_is_found(path, k < 20 ? n - 1 - (size_t)k : draw() % n | 1);
        write_all(path, bytes, n);
    }
    cr_assert_eq(psd_ckpt_verify(dir, 42, &err), PSD_OK, "%s", err.text);
    cr_assert_eq(truncate(path, (off_t)n + 1), 0);
    cr_assert_eq(psd_ckpt_verify(dir, 42, &err), PSD_EDATA);
    cr_assert(!is_listed(42));
    free(bytes);
    remove_dir();
}

Test(checkpoint, files_that_changed_places_are_found)
{
    char a[160], b[160], c[160];
    begin_model("adam");
    save(41, 2);
    train(1);
    save(42, 2);
    path_of(a, 42, 0), path_of(b, 42, 1), path_of(c, 41, 0);
    char swap[176];
    snprintf(swap, sizeof swap, "%s.swap", a);
    cr_assert_eq(rename(a, swap) | rename(b, a) | rename(swap, b), 0);
    cr_assert_eq(load(42, 2), PSD_EDATA);
    cr_assert(!is_listed(42) && is_listed(41));
    cr_assert_eq(rename(a, swap) | rename(b, a) | rename(swap, b), 0);
    cr_assert_eq(load(42, 2), PSD_OK);
    /* An intact shard of another clock in place of this one. */
    cr_assert_eq(rename(c, a), 0);
    cr_assert_eq(load(42, 2), PSD_EDATA);
    cr_assert(strstr(err.text, "manifest"), "%s", err.text);
    cr_assert(!is_listed(42) && !is_listed(41));
    remove_dir();
}

Test(checkpoint, a_commit_refuses_files_that_are_missing_or_belong_to_another_checkpoint)
{
    char a[160], b[160];
    begin_model("adam");
    psd_partition_t map;
    cut(&map, 2);
    cr_assert_eq(save_shard(42, 0, &map), PSD_OK);
    psd_ckpt_facts_t facts = facts_of(42, 0, 2);
    cr_assert_eq(psd_ckpt_commit(dir, &facts, &model, 2, &err), PSD_ENOINPUT);
    path_of(a, 42, 0), path_of(b, 42, 1);
    cr_assert_eq(link(a, b), 0);
    cr_assert_eq(psd_ckpt_commit(dir, &facts, &model, 2, &err), PSD_EDATA);
    cr_assert(strstr(err.text, "is of another shard than its checkpoint"), "%s", err.text);
    cr_assert_eq(unlink(b), 0);
    cr_assert_eq(save_shard(42, 1, &map), PSD_OK);
    facts.job = "b";
    cr_assert_eq(psd_ckpt_commit(dir, &facts, &model, 2, &err), PSD_EDATA);
    cr_assert(strstr(err.text, "is of another job"), "%s", err.text);
    cr_assert(!is_listed(42));
    facts.job = "a job";
    cr_assert_eq(psd_ckpt_commit(dir, &facts, &model, 2, &err), PSD_OK);
    cr_assert(is_listed(42));
    psd_partition_clear(&map);
    remove_dir();
}

/* ---- failures of the disk ---- */

static void limit_files_to(rlim_t n_bytes)
{
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit limit;
    getrlimit(RLIMIT_FSIZE, &limit);
    limit.rlim_cur = n_bytes;
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

Test(checkpoint, a_file_that_cannot_be_written_leaves_the_previous_checkpoint_and_no_rest)
{
    begin_model("adam");
    save(41, 1);
    limit_files_to(10000);
    cr_assert_eq(save_to(42, 1, 2), PSD_EIO);
    cr_assert(strstr(err.text, "shard-0.safetensors: File too large"), "%s", err.text);
    cr_assert_eq(count_temporary(42), 0);
    limit_files_to(RLIM_INFINITY);

    /* The disk fails after space was reserved. */
    psd_ckpt_facts_t facts = facts_of(42, 0, 1);
    psd_ckpt_writer_t *writer = psd_ckpt_begin(dir, &facts, &model, &one, alone(&rule), &err);
    cr_assert_not_null(writer);
    cr_assert_eq(count_temporary(42), 1);
    limit_files_to(20000);
    int rc = PSD_OK;
    for (uint32_t p = 0; !rc && p < one.n_chunks; p++)
        rc = psd_ckpt_chunk(writer, p, truth[p].w, truth[p].slot, &truth[p].state, &err);
    cr_assert_eq(rc, PSD_EIO);
    psd_ckpt_abandon(&writer);
    cr_assert_eq(count_temporary(42), 0);
    limit_files_to(RLIM_INFINITY);
    cr_assert(is_listed(41) && !is_listed(42));
    save(42, 1);
    cr_assert(is_listed(41) && is_listed(42));
    remove_dir();
}

Test(checkpoint, a_manifest_that_cannot_be_written_leaves_the_previous_checkpoint)
{
    begin_small("adam");
    save(41, 1);
    psd_partition_t map;
    cut(&map, 1);
    cr_assert_eq(save_shard(42, 0, &map), PSD_OK);
    limit_files_to(100);
    psd_ckpt_facts_t facts = facts_of(42, 0, 1);
    cr_assert_eq(psd_ckpt_commit(dir, &facts, &model, 2, &err), PSD_EIO);
    limit_files_to(RLIM_INFINITY);
    cr_assert_eq(count_temporary(42), 0);
    cr_assert(is_listed(41) && !is_listed(42));
    psd_partition_clear(&map);
    remove_dir();
}

Test(checkpoint, chunks_that_were_not_written_are_not_passed_over)
{
    begin_model("adam");
    psd_ckpt_facts_t facts = facts_of(42, 0, 1);
    psd_ckpt_writer_t *writer = psd_ckpt_begin(dir, &facts, &model, &one, alone(&rule), &err);
    cr_assert_eq(psd_ckpt_chunk(writer, 0, truth[0].w, truth[0].slot, &truth[0].state, &err), PSD_OK);
    cr_assert_eq(psd_ckpt_end(&writer, &err), PSD_EINVAL);
    cr_assert_null(writer);
    cr_assert_eq(count_temporary(42), 0);
    remove_dir();
}

Test(checkpoint, a_full_disk_is_named_and_survived)
{
    begin_model("adam");
    if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) || mount("tmpfs", dir, "tmpfs", 0, "size=1m")) {
        remove_dir();
        cr_skip_test("a small file system needs root");
    }
    int saved = 0;
    for (uint64_t clock = 1; clock <= 60;
         clock++) { /* room for five: two that are kept, and the third that is being written or the remains of a failed one */
        char full[96];
        int rc = save_to(clock, 2, 2);
        if (rc) {
            cr_assert_eq(rc, PSD_EIO);
            cr_assert(strstr(err.text, "No space left on device"), "%s", err.text);
        }
        saved += rc == PSD_OK;
        cr_assert_eq(count_temporary(clock), 0);
        cr_assert_eq(is_listed(clock), rc == PSD_OK);
        /* The disk is full for a while. */
        snprintf(full, sizeof full, "%s/full", dir);
        if (clock % 6 == 3) {
            int fd = open(full, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
            cr_assert_eq(posix_fallocate(fd, 0, 500 << 10), 0);
            close(fd);
        }
        if (clock % 6 == 5)
            unlink(full);
        uint64_t newest;
        cr_assert_eq(psd_ckpt_list(dir, &newest, 1), 1);
        cr_assert_eq(load(newest, 1), PSD_OK, "%s", err.text);
    }
    cr_assert(saved > 20 && saved < 60, "%d of 60 were saved", saved);
    umount(dir);
    remove_dir();
}

/* ---- pruning
 * ---------------------------------------------------------------------------------------------------------- */

static void touch(const char *name)
{
    char path[160];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    write_all(path, "x", 1);
}

static bool exists(const char *name)
{
    char path[160];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return access(path, F_OK) == 0;
}

Test(checkpoint, two_are_kept_and_what_failed_attempts_left_goes)
{
    begin_small("adam");
    save(10, 2);
    save(20, 2);
    psd_partition_t map;
    cut(&map, 2);
    cr_assert_eq(save_shard(25, 0, &map), PSD_OK); /* its other file never came */
    cr_assert_eq(save_shard(50, 0, &map), PSD_OK); /* nor that of this one, so far */
    touch("000000000020/shard-0.safetensors.1-7.tmp");
    touch("000000000050/shard-1.safetensors.1-8.tmp");
    touch("MANIFEST-000000000020.json.1-9.tmp");
    touch("MANIFEST-000000000050.json.1-9.tmp"); /* is being written */
    touch("notes.txt");
    touch("000000000010/notes.txt");
    save(30, 2);
    cr_assert_eq(psd_ckpt_list(dir, (uint64_t[9]){ 0 }, 9), 2);
    cr_assert(is_listed(30) && is_listed(20) && !is_listed(10));
    cr_assert(!exists("MANIFEST-000000000010.json") && !exists("000000000010/shard-0.safetensors"));
    cr_assert(!exists("000000000025") && !exists("000000000020/shard-0.safetensors.1-7.tmp"));
    cr_assert(!exists("MANIFEST-000000000020.json.1-9.tmp"));
    cr_assert(exists("MANIFEST-000000000050.json.1-9.tmp"));
    cr_assert(exists("000000000050/shard-0.safetensors") && exists("000000000050/shard-1.safetensors.1-8.tmp"));
    cr_assert(exists("notes.txt") && exists("000000000010/notes.txt"));
    psd_partition_clear(&map);
    remove_dir();
}

Test(checkpoint, a_damaged_one_does_not_count_among_those_that_are_kept)
{
    char path[160];
    begin_small("adam");
    save(10, 1);
    save(20, 1);
    path_of(path, 20, 0);
    cr_assert_eq(truncate(path, 5000), 0);
    save(30, 1);
    cr_assert(is_listed(30) && is_listed(10));
    save(40, 1);
    cr_assert(is_listed(40) && is_listed(30) && !is_listed(10));
    cr_assert(!exists("000000000020"));
    remove_dir();
}

Test(checkpoint, one_that_is_saved_after_going_back_is_never_pruned_by_itself)
{
    begin_small("adam");
    save(100, 1);
    save(110, 1);
    cr_assert_eq(save_to(50, 1, 2), PSD_OK, "%s", err.text);
    cr_assert(is_listed(50) && is_listed(100) && is_listed(110));
    remove_dir();
}

static int told;
static void count_told(void *arg, const char *path)
{
    (void)arg;
    (void)path;
    told++;
}

Test(checkpoint, a_dry_pruning_lists_and_removes_nothing)
{
    begin_small("adam");
    for (uint64_t clock = 1; clock <= 4; clock++)
        cr_assert_eq(save_to(clock, 2, 9), PSD_OK);
    cr_assert_eq(psd_ckpt_prune(dir, 3, true, count_told, NULL, &err), PSD_OK);
    cr_assert_eq(told, 3, "a manifest and two files");
    cr_assert(is_listed(1));
    cr_assert_eq(psd_ckpt_prune(dir, 0, false, count_told, NULL, &err), PSD_OK);
    cr_assert_eq(psd_ckpt_list(dir, (uint64_t[9]){ 0 }, 9), 2);
    remove_dir();
}

Test(checkpoint, one_of_the_same_clock_is_replaced)
{
    begin_model("adam");
    save(42, 2);
    train(1);
    save(42, 2);
    forget();
    cr_assert_eq(load(42, 1), PSD_OK, "%s", err.text);
    assert_loaded();
    remove_dir();
}
