/* bench_checkpoint.c - bench_checkpoint [--mib=N] [--steps=N] [DIR]: measures the cost of checkpoints, for a shard of that many
 * MiB, weights and adam's state together (default: 1024, below the current directory).
 *
 * First the files: saving and loading, in turns with writing, flushing and reading the same bytes as one plain file with
 * reserved room; pages are dropped from the cache before each reading. Then the steps: a psd process with one worker makes a
 * checkpoint every 40th round; a round counts as during a save if a checkpoint is being made, or an old one removed, at its
 * beginning or end. Without steps, only files. Prints medians, and the 99th percentile of rounds. */
#include <assert.h>
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/config/usage.h"
#include "psd/worker.h"
#include "server/checkpoint/checkpoint.h"
#include "tests/support/alone.h"

enum {
    ROUNDS = 7,
    ARRAYS = 3, /* weights and adam's two arrays */
    BLOCK = 1 << 20,
    EVERY = 40,         /* rounds from save to save */
    WARM_UP = 2 * EVERY /* by then, memory for two copies of the shard has been used */
};

static char dir[4000], plain[4096], shard[4096];
static float *array[ARRAYS];
static psd_tensor_desc_t tensor = { .name = "w", .n_dims = 1 };
static const psd_tensor_list_t model = { .n = 1, .tensor = &tensor };
static psd_partition_t map;
static psd_rule_t rule;
static psd_rule_state_t state;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void die(const char *what)
{
    fprintf(stderr, "bench_checkpoint: %s\n", what);
    exit(1);
}

static void must(int rc, const psd_err_t *err)
{
    if (rc != PSD_OK)
        die(err->text);
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* Of sorted numbers. */
static double percentile(const double *x, size_t n, size_t percent) { return x[(n - 1) * percent / 100]; }

static double median(double *x, size_t n)
{
    qsort(x, n, sizeof *x, by_size);
    return percentile(x, n, 50);
}

/* ---- files ---- */

static psd_ckpt_target_t chunk_of(void *arg, uint32_t part)
{
    const uint64_t at = map.chunk[part].offset;
    (void)arg;
    return (psd_ckpt_target_t){ array[0] + at, { array[1] + at, array[2] + at }, &state };
}

static void save(void)
{
    psd_err_t err;
    const psd_ckpt_facts_t facts = { .job = (char[]){ "bench" }, .settings = (char[]){ "" }, .clock = 1, .n_shards = 1 };
    psd_ckpt_writer_t *writer = psd_ckpt_begin(dir, &facts, &model, &map, alone(&rule), &err);
    must(writer ? PSD_OK : err.code, &err);
    for (uint32_t p = 0; p < map.n_held[0]; p++) {
        const psd_ckpt_target_t chunk = chunk_of(NULL, p);
        must(psd_ckpt_chunk(writer, p, chunk.w, chunk.slot, chunk.state, &err), &err);
    }
    must(psd_ckpt_end(&writer, &err), &err);
    must(psd_ckpt_commit(dir, &facts, &model, 2, &err), &err);
}

static void load(void)
{
    psd_err_t err;
    must(psd_ckpt_load(dir, 1, &model, &map, 0, alone(&rule), chunk_of, NULL, NULL, NULL, &err), &err);
}

static size_t n_array(void) { return tensor.n_elements * sizeof(float); }

static void write_plain(void)
{
    int fd = open(plain, O_CREAT | O_TRUNC | O_WRONLY, 0600);
    if (fd < 0 || posix_fallocate(fd, 0, (off_t)(n_array() * ARRAYS)))
        die("cannot write a plain file");
    for (int a = 0; a < ARRAYS; a++)
        for (size_t at = 0; at < n_array(); at += BLOCK)
            if (write(fd, (char *)array[a] + at, BLOCK) != BLOCK)
                die("cannot write a plain file");
    if (fdatasync(fd) || close(fd))
        die("cannot write a plain file");
}

static void read_plain(void)
{
    int fd = open(plain, O_RDONLY);
    for (int a = 0; a < ARRAYS; a++)
        for (size_t at = 0; at < n_array(); at += BLOCK)
            if (read(fd, (char *)array[a] + at, BLOCK) != BLOCK)
                die("cannot read a plain file");
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

/* Freeing the blocks of an old file takes as long as writing a new one, so do it outside the measured time. */
static void remove_all(void)
{
    char manifest[4096];
    snprintf(manifest, sizeof manifest, "%s/MANIFEST-000000000001.json", dir);
    unlink(manifest);
    unlink(plain);
    unlink(shard);
    sync();
}

static void nothing(void) {}

static double timed(void (*run)(void), void (*before)(void))
{
    before();
    const double start = now();
    run();
    return now() - start;
}

static void print_speed(const char *what, double took)
{
    printf("%-28s %7.3f s %7.3f GB/s", what, took, (double)n_array() * ARRAYS / took * 1e-9);
}

/* Measure psd's files and plain ones, in turns. */
static void compare(const char *our_name, void (*ours)(void), const char *plain_name, void (*other)(void), void (*before)(void))
{
    double our[ROUNDS], others[ROUNDS], ratio[ROUNDS];
    for (int i = 0; i < ROUNDS; i++) {
        const bool first = i % 2; /* the second one finds other free pages and blocks */
        our[i] = first ? timed(ours, before) : 0;
        others[i] = timed(other, before);
        our[i] = first ? our[i] : timed(ours, before);
        ratio[i] = others[i] / our[i];
    }
    print_speed(plain_name, median(others, ROUNDS));
    putchar('\n');
    print_speed(our_name, median(our, ROUNDS));
    printf("  %3.0f %% of that (median of %d ratios)\n", median(ratio, ROUNDS) * 100, ROUNDS);
    fflush(stdout);
}

static void measure_files(void)
{
    for (int a = 0; a < ARRAYS; a++) {
        array[a] = malloc(n_array());
        for (uint64_t i = 0; i < tensor.n_elements; i++)
            array[a][i] = (float)(i * 2654435761u % 1000003);
    }
    save(); /* makes the directory */
    compare("save and commit", save, "plain write and fdatasync", write_plain, remove_all);
    write_plain(); /* removed with the rest */
    compare("load, cold", load, "plain read, cold", read_plain, forget);
    compare("load, cached", load, "plain read, cached", read_plain, nothing);
    remove_all();
    for (int a = 0; a < ARRAYS; a++)
        free(array[a]);
}

/* ---- steps ---- */

static pid_t start_server(char endpoint[128])
{
    char program[512], line[512] = "", at[4200], every[16];
    int out[2];
    pid_t pid = -1;
    ssize_t n = readlink("/proc/self/exe", program, sizeof program - 8);
    program[n > 0 ? n : 0] = '\0';
    snprintf(program + strlen(dirname(program)), 8, "/psd");
    snprintf(at, sizeof at, "--checkpoint-dir=%s", dir);
    snprintf(every, sizeof every, "%d", EVERY);
    if (pipe(out))
        die("cannot make a pipe");
    if ((pid = fork()) < 0)
        die("cannot fork");
    if (!pid) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(out[1], 1);
        execl(program, "psd", "--insecure", "--listen=tcp://127.0.0.1:0", "--status-listen=none", "--job=bench", "--log-level=warn",
              "--optimizer=adam", at, "--checkpoint-every=0s", "--checkpoint-every-steps", every, "--checkpoint-keep=2",
              (char *)NULL);
        die("cannot start psd");
    }
    close(out[1]);
    for (size_t i = 0; i + 1 < sizeof line && !strchr(line, '\n'); i++)
        if (read(out[0], line + i, 1) != 1)
            die("psd ended before it was ready");
    if (sscanf(line, "psd ready shard=0/1 data=%127s", endpoint) != 1)
        die(line);
    return pid;
}

/* Whether a checkpoint is being made, or an old one removed: a clock's directory has no manifest. */
static bool is_saving(void)
{
    char path[4300];
    bool found = false;
    DIR *names = opendir(dir);
    for (struct dirent *name; names && (name = readdir(names));) {
        snprintf(path, sizeof path, "%s/MANIFEST-%.20s.json", dir, name->d_name);
        found |= *name->d_name >= '0' && *name->d_name <= '9' && access(path, F_OK);
    }
    if (names)
        closedir(names);
    return found;
}

static double round_of(psd_worker_t *worker, const float *gradient)
{
    psd_ticket_t ticket;
    const double start = now();
    if (psd_worker_exchange(worker, &gradient, 64, 1.0, &ticket) || psd_worker_wait(worker, ticket, 60000))
        die(psd_worker_error(worker));
    return now() - start;
}

/* Rounds without a save in progress, and with one. */
typedef struct rounds {
    double *took[2];
    size_t n[2];
} rounds_t;

static void print_rounds(rounds_t *self)
{
    static const char *const names[] = { "without a save", "beside one" };
    double p[2][2];
    for (int which = 0; which < 2; which++) {
        if (!self->n[which])
            die("no such round: take more STEPS");
        qsort(self->took[which], self->n[which], sizeof(double), by_size);
        p[which][0] = percentile(self->took[which], self->n[which], 50);
        p[which][1] = percentile(self->took[which], self->n[which], 99);
        printf("%4zu rounds %-16s median %6.1f ms, 99th percentile %6.1f ms, longest %6.1f ms\n", self->n[which], names[which],
               p[which][0] * 1e3, p[which][1] * 1e3, self->took[which][self->n[which] - 1] * 1e3);
    }
    printf("beside one / without           %6.2f                     %6.2f\n", p[1][0] / p[0][0], p[1][1] / p[0][1]);
}

static void measure_steps(size_t n_steps)
{
    char endpoint[128];
    const pid_t pid = start_server(endpoint);
    float *weights = calloc(2, n_array()), *gradient = weights + tensor.n_elements;
    rounds_t rounds = { .took = { calloc(n_steps, sizeof(double)), calloc(n_steps, sizeof(double)) } };
    for (uint64_t i = 0; i < tensor.n_elements; i++)
        gradient[i] = 1e-3f;
    const psd_worker_config_t config = { .size = sizeof config, .join = endpoint, .job = "bench", .insecure = 1 };
    const psd_tensor_t w = { "w", tensor.dim, 1, weights };
    psd_worker_t *worker;
    if (psd_worker_connect(&worker, &config) || psd_worker_register(worker, &w, 1))
        die(psd_worker_error(worker));
    bool was_saving = true, saving;
    for (size_t i = 0; i < WARM_UP + n_steps; i++, was_saving = saving) {
        const double took = round_of(worker, gradient);
        const bool beside = (saving = is_saving()) || was_saving;
        if (i >= WARM_UP)
            rounds.took[beside][rounds.n[beside]++] = took;
    }
    print_rounds(&rounds);
    psd_worker_leave(worker, 1, 60000);
    psd_worker_close(&worker);
    waitpid(pid, NULL, 0);
    free(weights);
    free(rounds.took[0]);
    free(rounds.took[1]);
}

static void remove_directory(void)
{
    const pid_t pid = fork();
    if (pid == 0) {
        execlp("rm", "rm", "-r", dir, (char *)NULL);
        _exit(127);
    }
    waitpid(pid, NULL, 0);
}

enum { MIB, STEPS };
static const psd_option_t flags[] = {
    [MIB] = { .key = "mib", .type = PSD_OPTION_UINT64, .preset = "1024", .range = "1..", .help = "size of the shard" },
    [STEPS] = { .key = "steps",
                .type = PSD_OPTION_UINT64,
                .preset = "400",
                .help = "number of rounds to time during a save; 0: none" },
    { .key = NULL },
};
static const psd_usage_t usage = { .name = "bench_checkpoint",
                                   .words = "[DIR]",
                                   .does = "time the cost of checkpoints, with files below DIR",
                                   .about = "",
                                   .flag = flags,
                                   .examples = "" };

int main(int argc, char **argv)
{
    const psd_given_t *given = psd_usage_read_or_exit(&usage, argc, argv);
    const uint64_t mib = given->value[MIB].u;
    const size_t n_steps = given->value[STEPS].u;
    psd_err_t err;
    snprintf(dir, sizeof dir, "%s/bench-checkpoint", given->word[0] ? given->word[0] : ".");
    snprintf(plain, sizeof plain, "%s/plain", dir);
    snprintf(shard, sizeof shard, "%s/000000000001/shard-0.safetensors", dir);
    tensor.n_elements = tensor.dim[0] = (mib << 20) / sizeof(float) / ARRAYS / BLOCK * BLOCK + BLOCK;
    must(psd_rule_parse(&rule, "adam", &err), &err);
    must(psd_partition_make(&map, &tensor.n_elements, 1, 1, 1, &err), &err);
    printf("%" PRIu64 " MiB in %" PRIu32 " chunks of 3 arrays\n", (uint64_t)(n_array() * ARRAYS >> 20), map.n_chunks);
    measure_files();
    if (n_steps)
        measure_steps(n_steps);
    remove_directory();
    return 0;
}
