/* bench.c - measures how fast psd is for a program that uses its library, and for `psdctl run`, compared with the limits of the
 * machine. Each row of the table below has a measured program, and programs that set its limit: they are separate processes, warm,
 * and take turns (repeat.h), so that other load on the machine affects all alike. It prints the medians of the times, the median of
 * the turns' ratios, and the range of the middle half of these, which shows how reliable it is.
 *
 *     bench [--turns N] [--json FILE] [--quick] [--list] [ROW...]
 *
 * A row is met when its ratio is not above its bar. Rows that need torch are skipped, with a message, without it. */
#include <errno.h>
#include <libgen.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/config/usage.h"
#include "tests/bench/repeat.h"

enum { MAX_LIMITS = 2, MAX_SIDES = 1 + MAX_LIMITS, MAX_WORDS = 24, LINE = 256, PATH = 512 };

/* Words in the commands below that stand for a size, so that --quick can use small ones. */
static const struct {
    const char *word, *full, *quick;
} sizes[] = {
    { "BIG", "25165824", "65536" },                                    /* parameters: 96 MiB */
    { "TWICE", "50331648", "131072" }, { "TEN", "10485760", "20000" }, /* parameters: 40 MiB */
    { "MIDDLE", "1048576", "20000" },                                  /* parameters: 4 MiB */
    { "UNITS", "1000", "20" },                                         /* exchanges of a small model in one repetition */
    { "STEPS", "600", "60" },                                          /* of training in one repetition */
};

/* One repetition of one program. */
typedef struct sample {
    double mean, median; /* seconds of a unit of its work */
} sample_t;

typedef struct row row_t;
struct row {
    const char *id, *title;
    const char *measured;          /* a command: a program beside this one, or a script in peers/ */
    const char *limit[MAX_LIMITS]; /* commands whose times add up to the limit */
    double bound_ms;               /* the limit if it is a time, otherwise 0 */
    double bar;                    /* the highest acceptable ratio to the limit; 0: it is only reported */
    bool loaded;                   /* each processor also runs a program that never waits */
    double (*limit_s)(const row_t *self, const sample_t *sample); /* of one turn; sample[0] is that of the measured program */
};

static double sum_of_limits(const row_t *self, const sample_t *sample)
{
    double sum = 0;
    for (size_t i = 0; i < MAX_LIMITS && self->limit[i]; i++)
        sum += sample[1 + i].mean;
    return sum;
}

static double fixed_bound(const row_t *self, const sample_t *sample)
{
    (void)sample;
    return self->bound_ms * 1e-3;
}

/* Then the ratio shows how uneven the exchanges are. */
static double own_median(const row_t *self, const sample_t *sample)
{
    (void)self;
    return sample[0].median;
}

#define AGAINST(...) .limit = { __VA_ARGS__ }, .limit_s = sum_of_limits
#define PSD_BIG      "exchange_psd --parameters BIG"
#define PSD_SMALL    "exchange_psd --parameters 1024 --units UNITS"
#define TCP_BIG      PSD_BIG " --sockets"
#define TCP_SMALL    PSD_SMALL " --sockets"
#define ARRAYS_BIG   PSD_BIG " --arrays --only-read"
#define ZMQ_BIG      "exchange_zmq --parameters BIG"
#define STEP_BIG     "exchange_memory --parameters BIG"
#define ON_LINK      "link 1gbit "
#define LINK_PSD     ON_LINK PSD_BIG " --far --keys"
#define LINK_ECHO    ON_LINK "exchange_zmq --far --answer echo --parameters "

/* On the link psd needs keys. Each end encrypts and decrypts by one thread; on two processors, which also do all other work, that is
 * fast enough for 4 Gb/s each way at once, and less beside other work, so that at 1 Gb/s the link is the limit. It carries the gradients of both workers of
 * `link-two`, and the weights for both: as much as an echo of twice as many floats. */
/* clang-format off */
static const row_t rows[] = {
    { .id = "tcp-barrier", .title = "24 Mi floats, sgd: bare libzmq with a barrier",
      .measured = TCP_BIG, AGAINST(ZMQ_BIG), .bar = 1.2 },
    { .id = "tcp-barrier-kept", .title = "24 Mi floats, sgd: the same that keeps its heap",
      .measured = TCP_BIG, AGAINST(ZMQ_BIG " --keep-heap"), .bar = 1.2 },
    { .id = "tcp-echo", .title = "24 Mi floats, sgd: bare libzmq's echo + the step",
      .measured = TCP_BIG, AGAINST(ZMQ_BIG " --answer echo", STEP_BIG), .bar = 1.15 },
    { .id = "tcp-echo-kept", .title = "24 Mi floats, sgd: the same that keeps its heap",
      .measured = TCP_BIG, AGAINST(ZMQ_BIG " --answer echo --keep-heap", STEP_BIG), .bar = 1.15 },
    { .id = "memory-copied", .title = "24 Mi floats, sgd: memcpy, step in place, memcpy",
      .measured = PSD_BIG, AGAINST(STEP_BIG " --copies"), .bar = 1.6 },
    { .id = "memory-sgd", .title = "24 Mi floats in the library's arrays, weights only read, sgd: step in place",
      .measured = ARRAYS_BIG, AGAINST(STEP_BIG), .bar = 2 },
    { .id = "memory-adam", .title = "24 Mi floats in the library's arrays, weights only read, adam: step in place",
      .measured = ARRAYS_BIG " --optimizer adam", AGAINST(STEP_BIG " --optimizer adam"), .bar = 1.5 },
    { .id = "gloo", .title = "24 Mi floats, 2 workers, 2 servers: Gloo, 2 ranks, local step",
      .measured = PSD_BIG " --workers 2 --servers 2", AGAINST("exchange_gloo.py --parameters BIG"), .bar = 1 / 4. },
    { .id = "gloo-arrays", .title = "24 Mi floats in the library's arrays, weights only read, 2 workers, 2 servers: the same",
      .measured = ARRAYS_BIG " --workers 2 --servers 2", AGAINST("exchange_gloo.py --parameters BIG"), .bar = 1 / 4. },
    { .id = "small-tcp", .title = "1,024 floats, sgd: bare libzmq ping-pong",
      .measured = TCP_SMALL, AGAINST("exchange_zmq --parameters 1024 --units UNITS"), .bar = 1.2 },
    { .id = "small-local", .title = "1,024 floats, sgd: 40 us",
      .measured = PSD_SMALL, .bound_ms = 0.04, .limit_s = fixed_bound, .bar = 1 },
    { .id = "small-loaded", .title = "1,024 floats, all processors loaded, mean: its median",
      .measured = PSD_SMALL, .loaded = true, .limit_s = own_median, .bar = 5 },
    { .id = "tensors", .title = "1 Mi floats in 1,000 tensors: in 1 tensor",
      .measured = "exchange_psd --parameters MIDDLE --tensors 1000 --units 5",
      AGAINST("exchange_psd --parameters MIDDLE --units 5"), .bar = 1.25 },
    { .id = "tensors-big", .title = "24 Mi floats in 1,000 tensors: in 1 tensor",
      .measured = PSD_BIG " --tensors 1000", AGAINST(PSD_BIG), .bar = 1.25 },
    { .id = "tensors-pushed", .title = "24 Mi floats in 1,000 tensors, pushed one by one: at once",
      .measured = PSD_BIG " --tensors 1000 --each", AGAINST(PSD_BIG " --tensors 1000"), .bar = 1.1 },
    { .id = "health", .title = "24 Mi floats, adam, each step a look at every tensor, not one in 100: no looks",
      .measured = PSD_BIG " --optimizer adam --health-every 1", AGAINST(PSD_BIG " --optimizer adam --health-every 0"), .bar = 3 },
    { .id = "keys", .title = "24 Mi floats, encrypted: in the clear",
      .measured = TCP_BIG " --keys", AGAINST(TCP_BIG) },
    { .id = "keys-threads", .title = "24 Mi floats, encrypted, 2 workers, net.threads=2: net.threads=1",
      .measured = TCP_BIG " --keys --workers 2 --net-threads 2", AGAINST(TCP_BIG " --keys --workers 2") },
    { .id = "keys-small", .title = "1,024 floats, encrypted: in the clear",
      .measured = TCP_SMALL " --keys", AGAINST(TCP_SMALL) },
    { .id = "link-sgd", .title = "24 Mi floats at 1 Gb/s, encrypted, sgd: bare echo + the step",
      .measured = LINK_PSD, AGAINST(LINK_ECHO "BIG", STEP_BIG), .bar = 1.15 },
    { .id = "link-adam", .title = "24 Mi floats at 1 Gb/s, encrypted, adam: bare echo + the step",
      .measured = LINK_PSD " --optimizer adam", AGAINST(LINK_ECHO "BIG", STEP_BIG " --optimizer adam"), .bar = 1.15 },
    { .id = "link-two", .title = "24 Mi floats at 1 Gb/s, encrypted, adam, 2 workers: two echoes + the step",
      .measured = LINK_PSD " --optimizer adam --workers 2", AGAINST(LINK_ECHO "TWICE", STEP_BIG " --optimizer adam"), .bar = 1.15 },
    { .id = "link-overlap", .title = "24 Mi floats at 1 Gb/s, encrypted, adam: net.overlap=off",
      .measured = LINK_PSD " --optimizer adam", AGAINST(LINK_PSD " --optimizer adam --no-overlap"), .bar = 0.6 },
    { .id = "heap", .title = "24 Mi floats, sgd: the same in a program that keeps its heap",
      .measured = TCP_BIG, AGAINST(TCP_BIG " --keep-heap"), .bar = 1.05 },
    { .id = "mlp-ddp", .title = "a step of an MLP, 2 workers: torch DDP (Gloo), 2 ranks",
      .measured = "train_psd --workers 2 --steps STEPS", AGAINST("train_torch.py --ranks 2 --units STEPS"), .bar = 1 / 5. },
    { .id = "mlp-torch", .title = "a step of an MLP, 1 worker: torch in one process",
      .measured = "train_psd --workers 1 --steps STEPS", AGAINST("train_torch.py --ranks 1 --units STEPS"), .bar = 1 / 1.4 },
    { .id = "python", .title = "10 Mi floats in the library's arrays, by the Python package: by a C program",
      .measured = "exchange_python.py --parameters TEN --units 5", AGAINST("exchange_psd --parameters TEN --arrays --units 5"), .bar = 1.05 },
    { .id = "conv-ddp", .title = "a step of a convolutional net, psd.Optimizer, 2 workers: torch DDP (Gloo), 2 ranks",
      .measured = "train_conv.py --by psd", AGAINST("train_conv.py --by ddp"), .bar = 1 },
};
/* clang-format on */
enum { N_ROWS = sizeof rows / sizeof *rows };

/* ---- a program that takes turns with others ---- */

typedef struct side {
    pid_t pid;
    FILE *ask, *answer;
} side_t;

static bool quick;

static const char *size_of(const char *word)
{
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (!strcmp(word, sizes[i].word))
            return quick ? sizes[i].quick : sizes[i].full;
    return word;
}

/* The path of a program beside this one, at `here`, of a script in peers/, or of the link, which takes the path of another. */
static void find(char path[PATH], const char *here, const char *word)
{
    const char *sources = PSD_SOURCE_DIR "/tests/bench";
    if (strstr(word, ".py"))
        snprintf(path, PATH, "%.256s/peers/%s", sources, word);
    else
        snprintf(path, PATH, "%.256s/%s", strcmp(word, "link") ? here : sources, word);
}

static _Noreturn void become(const char *command)
{
    char copy[LINE], path[PATH], on_link[PATH], here[PATH], *rest = copy, *words[MAX_WORDS] = { NULL };
    snprintf(copy, sizeof copy, "%s", command);
    for (size_t n = 0; n + 1 < MAX_WORDS && rest; n++)
        words[n] = (char *)(uintptr_t)size_of(strsep(&rest, " "));
    const bool is_peer = strstr(words[0], ".py");
    ssize_t length = readlink("/proc/self/exe", here, sizeof here - 1);
    here[length > 0 ? length : 0] = '\0';
    snprintf(path, sizeof path, "%.256s/../worker/libpsdworker.so.0", dirname(here));
    setenv("PSD_LIBRARY", path, 1);
    setenv("PYTHONPATH", PSD_SOURCE_DIR "/worker/python", 1);
    find(path, here, words[0]);
    if (!strcmp(words[0], "link")) {
        find(on_link, here, words[2]);
        words[2] = on_link;
    }
    execv(path, words);
    if (is_peer) {
        printf("skip /usr/bin/python3 is needed: %s\n", strerror(errno));
        exit(0);
    }
    repeat_die("bench: cannot start %s: %s", path, strerror(errno));
}

/* False: it cannot be measured here; `line` has the reason. */
static bool start(side_t *self, const char *command, char line[LINE])
{
    int ask[2], answer[2];
    if (pipe(ask) || pipe(answer))
        repeat_die("bench: no pipe");
    self->pid = repeat_fork();
    if (self->pid == 0) {
        dup2(ask[0], STDIN_FILENO);
        dup2(answer[1], STDOUT_FILENO);
        for (int fd = 3; fd < 64; fd++) /* also those of the other sides, which would otherwise stay open */
            close(fd);
        become(command);
    }
    close(ask[0]);
    close(answer[1]);
    self->ask = fdopen(ask[1], "w");
    self->answer = fdopen(answer[0], "r");
    if (!self->ask || !self->answer || !fgets(line, LINE, self->answer))
        repeat_die("bench: %s ended before it was ready", command);
    line[strcspn(line, "\n")] = '\0';
    if (strncmp(line, "skip ", 5) && strcmp(line, "ready"))
        repeat_die("bench: %s said: %s", command, line);
    return strcmp(line, "ready") == 0;
}

static void stop(side_t *self)
{
    fclose(self->ask);
    fclose(self->answer);
    waitpid(self->pid, NULL, 0);
}

static sample_t repeat(side_t *self, const char *command)
{
    char line[LINE];
    sample_t sample;
    if (fputc('\n', self->ask) < 0 || fflush(self->ask) || !fgets(line, sizeof line, self->answer) ||
        sscanf(line, "%lf %lf", &sample.mean, &sample.median) != 2)
        repeat_die("bench: %s has ended", command);
    return sample;
}

/* ---- programs that never wait ---- */

enum { MAX_LOAD = 256 };

static size_t start_load(pid_t load[MAX_LOAD])
{
    const long cores = sysconf(_SC_NPROCESSORS_ONLN);
    size_t n = 0;
    for (; n < (size_t)cores && n < MAX_LOAD; n++)
        if ((load[n] = repeat_fork()) == 0)
            for (volatile unsigned i = 0;; i++)
                continue;
    return n;
}

static void stop_load(const pid_t *load, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        kill(load[i], SIGKILL);
        waitpid(load[i], NULL, 0);
    }
}

/* ---- rows ---- */

typedef struct outcome {
    double ms, limit_ms, ratio; /* medians over the turns */
    double low, high;           /* half of the turns' ratios are between these */
    char skipped[LINE];         /* why it was skipped; "": it was measured */
} outcome_t;

static void take_turns(const row_t *row, side_t *sides, size_t n_sides, size_t turns, outcome_t *out)
{
    double *x = calloc(3 * turns, sizeof *x), *ms = x, *limit_ms = x + turns, *ratio = x + 2 * turns;
    pid_t load[MAX_LOAD];
    if (!x)
        repeat_die("bench: no memory");
    const size_t n_load = row->loaded ? start_load(load) : 0;
    for (size_t t = 0; t < turns; t++) {
        sample_t sample[MAX_SIDES] = { 0 };
        for (size_t i = 0; i < n_sides; i++)
            sample[i] = repeat(&sides[i], i ? row->limit[i - 1] : row->measured);
        ms[t] = sample[0].mean * 1e3;
        limit_ms[t] = row->limit_s(row, sample) * 1e3;
        ratio[t] = ms[t] / limit_ms[t];
    }
    stop_load(load, n_load);
    out->ms = repeat_median(ms, turns);
    out->limit_ms = repeat_median(limit_ms, turns);
    out->ratio = repeat_median(ratio, turns); /* and sorts them */
    out->low = ratio[turns / 4];
    out->high = ratio[turns - 1 - turns / 4];
    free(x);
}

static void measure(const row_t *row, size_t turns, outcome_t *out)
{
    side_t sides[MAX_SIDES];
    char line[LINE];
    size_t n = 0;
    bool is_ready = true;
    *out = (outcome_t){ 0 };
    /* Start the limits first, so that a missing peer is noticed before psd is started. */
    for (size_t i = 0; is_ready && i < MAX_LIMITS && row->limit[i]; i++, n++)
        is_ready = start(&sides[1 + i], row->limit[i], line);
    if (is_ready && start(&sides[0], row->measured, line))
        take_turns(row, sides, 1 + n, turns, out);
    else
        snprintf(out->skipped, sizeof out->skipped, "%s", line + strlen("skip "));
    for (size_t i = is_ready ? 0 : 1; i <= n; i++)
        stop(&sides[i]);
}

static void print_row(const row_t *row, const outcome_t *is)
{
    if (*is->skipped)
        printf("%-16s %-62s skipped: %s", row->id, row->title, is->skipped);
    else
        printf("%-16s %-62s %9.3f %9.3f %8.2f %7.2f..%-7.2f", row->id, row->title, is->ms, is->limit_ms, is->ratio, is->low,
               is->high);
    if (!*is->skipped && row->bar > 0)
        printf("%6.2f", row->bar);
    putchar('\n');
    fflush(stdout);
}

/* No text of a row and no reason has a quote or a backslash in it. */
static void write_row(FILE *json, const row_t *row, const outcome_t *is, size_t turns)
{
    fprintf(json, "{\"row\": \"%s\", \"title\": \"%s\", \"measured\": \"%s\", ", row->id, row->title, row->measured);
    if (*is->skipped)
        fprintf(json, "\"skipped\": \"%s\"}\n", is->skipped);
    else {
        fprintf(json, "\"ms\": %.6f, \"limit_ms\": %.6f, \"ratio\": %.4f, \"low\": %.4f, \"high\": %.4f, \"bar\": ", is->ms,
                is->limit_ms, is->ratio, is->low, is->high);
        fprintf(json, row->bar > 0 ? "%.4f" : "null", row->bar);
        fprintf(json, ", \"turns\": %zu, \"quick\": %s}\n", turns, quick ? "true" : "false");
    }
    fflush(json);
}

/* ---- the program ---- */

enum { TURNS, JSON, QUICK, LIST };
static const psd_option_t flags[] = {
    [TURNS] = { .key = "turns",
                .type = PSD_OPTION_UINT64,
                .preset = "11",
                .range = "1..1001",
                .help = "number of turns of each program in a row" },
    [JSON] = { .key = "json", .type = PSD_OPTION_PATH, .argument = "FILE", .help = "a line of JSON for each row" },
    [QUICK] = { .key = "quick", .type = PSD_OPTION_SWITCH, .help = "only check that it works: small sizes, three turns" },
    [LIST] = { .key = "list", .type = PSD_OPTION_SWITCH, .help = "list the rows and their commands, and measure nothing" },
    { .key = NULL },
};
static const psd_usage_t usage = { .name = "bench",
                                   .words = "[ROW...]",
                                   .does = "time psd, compared with the limits of the machine",
                                   .about = "",
                                   .flag = flags,
                                   .examples = "" };

static bool is_asked_for(const psd_given_t *given, const row_t *row)
{
    for (size_t i = 0; i < given->n_words; i++)
        if (!strcmp(given->word[i], row->id))
            return true;
    return given->n_words == 0;
}

static void check_words(const psd_given_t *given)
{
    for (size_t i = 0; i < given->n_words; i++) {
        size_t r = 0;
        while (r < N_ROWS && strcmp(given->word[i], rows[r].id))
            r++;
        if (r == N_ROWS)
            repeat_die("bench: there is no row %s; see bench --list", given->word[i]);
    }
}

static void list_rows(const psd_given_t *given)
{
    for (size_t r = 0; r < N_ROWS; r++)
        if (is_asked_for(given, &rows[r])) {
            printf("%s\t%s", rows[r].id, rows[r].measured);
            for (size_t i = 0; i < MAX_LIMITS && rows[r].limit[i]; i++)
                printf("\t%s", rows[r].limit[i]);
            putchar('\n');
        }
}

/* psd's programs read options from PSD_..., so clear those that are not meant for them. */
static void clear_options(void)
{
    for (size_t i = 0; environ[i];) {
        char name[64];
        snprintf(name, sizeof name, "%.*s", (int)strcspn(environ[i], "="), environ[i]);
        i = !strncmp(name, "PSD_", 4) && !unsetenv(name) ? 0 : i + 1;
    }
}

int main(int argc, char **argv)
{
    const psd_given_t *given = psd_usage_read_or_exit(&usage, argc, argv);
    quick = given->flag[QUICK];
    const size_t turns = quick ? 3 : given->value[TURNS].u;
    check_words(given);
    if (given->flag[LIST])
        return list_rows(given), 0;
    FILE *json = given->flag[JSON] ? fopen(given->flag[JSON], "w") : NULL;
    if (given->flag[JSON] && !json)
        repeat_die("bench: %s: %s", given->flag[JSON], strerror(errno));
    clear_options();
    signal(SIGPIPE, SIG_IGN);
    double load = 0;
    getloadavg(&load, 1);
    printf("%ld processors, load %.1f before; medians of %zu turns%s\n", sysconf(_SC_NPROCESSORS_ONLN), load, turns,
           quick ? "; small sizes, whose speed means nothing" : "");
    printf("%-16s %-62s %9s %9s %8s %-16s%6s\n", "row", "what is measured: its limit", "ms", "limit ms", "ratio",
           " half of them in", "bar");
    for (size_t r = 0; r < N_ROWS; r++) {
        outcome_t outcome;
        if (!is_asked_for(given, &rows[r]))
            continue;
        measure(&rows[r], turns, &outcome);
        print_row(&rows[r], &outcome);
        if (json)
            write_row(json, &rows[r], &outcome, turns);
    }
    return json && fclose(json) ? 1 : 0;
}
