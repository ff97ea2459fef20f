/* bench_checkpoint.c - bench_checkpoint [DIR [MIB]]: save and load a shard of that many MiB (256 below the
 * current directory, unless said otherwise) with adam's state, beside writing and flushing, and reading, the
 * same bytes as one plain file; best of three. Pages are dropped from the cache before each reading. */
#include <assert.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "server/checkpoint.h"

enum { ROUNDS = 3, ARRAYS = 3 /* weights and adam's two */, BLOCK = 1 << 20 };

static char dir[4000], plain[4096], shard[4096];
static float *array[ARRAYS];
static psd_tensor_desc_t tensor = { .name = "w", .n_dims = 1 };
static const psd_tensor_list_t model = { 1, &tensor };
static psd_partition_t map;
static psd_rule_t rule;
static psd_rule_state_t state;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void must(int rc, const psd_err_t *err)
{
    if (rc == PSD_OK)
        return;
    fprintf(stderr, "bench_checkpoint: %s\n", err->text);
    exit(psd_err_exit_code(rc));
}

static psd_ckpt_target_t chunk_of(void *arg, uint32_t part)
{
    const uint64_t at = map.chunk[part].offset;
    (void)arg;
    return (psd_ckpt_target_t){ array[0] + at, { array[1] + at, array[2] + at }, &state };
}

static void save(void)
{
    psd_err_t err;
    const psd_ckpt_facts_t facts = {
        .job = (char[]){ "bench" }, .settings = (char[]){ "" }, .clock = 1, .n_shards = 1
    };
    psd_ckpt_writer_t *writer = psd_ckpt_begin(dir, &facts, &model, &map, &rule, &err);
    must(writer ? PSD_OK : err.code, &err);
    for (uint32_t p = 0; p < map.n_parts[0]; p++) {
        const psd_ckpt_target_t chunk = chunk_of(NULL, p);
        must(psd_ckpt_part(writer, p, chunk.w, chunk.slot, chunk.state, &err), &err);
    }
    must(psd_ckpt_end(&writer, &err), &err);
    must(psd_ckpt_commit(dir, &facts, &model, 2, &err), &err);
}

static void load(void)
{
    psd_err_t err;
    must(psd_ckpt_load(dir, 1, &model, &map, 0, &rule, chunk_of, NULL, NULL, NULL, &err), &err);
}

static void write_plain(void)
{
    const size_t n = tensor.n_elements * sizeof(float);
    int fd = open(plain, O_CREAT | O_TRUNC | O_WRONLY, 0600);
    for (int a = 0; a < ARRAYS; a++)
        for (size_t at = 0; at < n; at += BLOCK)
            if (write(fd, (char *)array[a] + at, BLOCK) != BLOCK)
                exit(74);
    fdatasync(fd);
    close(fd);
}

static void read_plain(void)
{
    const size_t n = tensor.n_elements * sizeof(float);
    int fd = open(plain, O_RDONLY);
    for (int a = 0; a < ARRAYS; a++)
        for (size_t at = 0; at < n; at += BLOCK)
            if (read(fd, (char *)array[a] + at, BLOCK) != BLOCK)
                exit(74);
    close(fd);
}

static void forget(void)
{
    const char *const paths[] = { plain, shard };
    for (int i = 0; i < 2; i++) {
        int fd = open(paths[i], O_RDONLY);
        posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
        close(fd);
    }
}

/* Freeing the blocks of an old file takes as long as writing a new one: not while the clock runs. */
static void remove_all(void)
{
    char manifest[4096];
    snprintf(manifest, sizeof manifest, "%s/MANIFEST-000000000001.json", dir);
    unlink(manifest);
    unlink(plain);
    psd_ckpt_discard(dir, 0, NULL);
    sync();
}

static void nothing(void) {}

static void measure(const char *what, void (*run)(void), void (*before)(void))
{
    double best = 1e9;
    for (int i = 0; i < ROUNDS; i++) {
        before();
        const double start = now();
        run();
        const double took = now() - start;
        best = took < best ? took : best;
    }
    printf("%-28s %7.3f s %7.3f GB/s\n", what, best,
           (double)tensor.n_elements * sizeof(float) * ARRAYS / best * 1e-9);
}

int main(int argc, char **argv)
{
    psd_err_t err;
    const uint64_t mib = argc > 2 ? strtoull(argv[2], NULL, 10) : 256;
    assert(mib > 0);
    snprintf(dir, sizeof dir, "%s/bench-checkpoint", argc > 1 ? argv[1] : ".");
    snprintf(plain, sizeof plain, "%s/plain", dir);
    snprintf(shard, sizeof shard, "%s/000000000001/shard-0.safetensors", dir);
    tensor.n_elements = tensor.dim[0] = (mib << 20) / sizeof(float) / ARRAYS / BLOCK * BLOCK + BLOCK;
    must(psd_rule_parse(&rule, "adam", &err), &err);
    must(psd_partition_make(&map, &tensor.n_elements, 1, 1, &err), &err);
    for (int a = 0; a < ARRAYS; a++) {
        array[a] = malloc(tensor.n_elements * sizeof(float));
        for (uint64_t i = 0; i < tensor.n_elements; i++)
            array[a][i] = (float)(i * 2654435761u % 1000003);
    }
    save(); /* makes the directory */
    printf("%" PRIu64 " MiB in %" PRIu32 " chunks of 3 arrays\n",
           (uint64_t)(tensor.n_elements * sizeof(float) * ARRAYS >> 20), map.n_chunks);
    measure("plain write and fdatasync", write_plain, remove_all);
    measure("save and commit", save, remove_all);
    write_plain(); /* removed with the rest */
    measure("plain read, cold", read_plain, forget);
    measure("load, cold", load, forget);
    measure("plain read, cached", read_plain, nothing);
    measure("load, cached", load, nothing);
    remove_all();
    return rmdir(dir);
}
