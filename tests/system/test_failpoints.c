#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/failpoint.h"
#include "proto/codec.h"
#include "tests/support/cluster.h"
#include "tests/support/reference.h"

/* At each failpoint (common/failpoint.h) some process of a job is killed, or stalls for longer than its
 * lease, once. psdctl run starts again what died, and the weights at the end are those of one process.
 * `PSD_CAMPAIGN=1` takes every failpoint five times over; else each is taken in its turn, by seed. */

#ifdef PSD_FAILPOINTS

enum { BATCH = 240, SEED = 5, STEPS = 24, SHARE = 10, DONE_MS = 60000, MOST = 256, NAME = 64 };
#define RULE "lookahead(adam(lr=0.002),k=5)"
static const size_t layers[] = { 784, 16, 10 };

static cluster_t cluster;
static void setup(void) { cluster_open(&cluster); }
static void teardown(void) { cluster_close(&cluster); }
TestSuite(failpoints, .init = setup, .fini = teardown, .timeout = 5400);

/* ---- their names ---- */

static char names[MOST][NAME];
static unsigned n_names;

static void add_name(const char *place, const char *what)
{
    cr_assert_lt(n_names, MOST);
    snprintf(names[n_names++], NAME, "%s%s%s", place, *what ? "." : "", what);
}

/* Messages that this job need not have: of trouble, and of wishes. */
static bool is_rare(const char *name)
{
    static const char *const kinds[] = {
        "REFUSED", "WAIT", "FENCED", "PROBE", "PROGRESS", "SETTING", "ADMIN"
    };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (!strcmp(strrchr(name, '.') + 1, kinds[i]))
            return true;
    return false;
}

/* A place where messages pass has one failpoint per kind that its side may send or get there. */
static void add_kinds(const char *place)
{
    const bool server = !strncmp(place, "srv", 3), in = !strcmp(place + 4, "recv");
    const unsigned servers = PSD_FROM_SHARD | PSD_FROM_COORDINATOR;
    for (psd_kind_t kind = 1; kind <= PSD_MSG_ADMIN; kind++) {
        const unsigned from = psd_kind_sender(kind);
        const bool among_servers = kind == PSD_MSG_SHARD_HELLO || kind == PSD_MSG_SHARD_WELCOME ||
                                   kind == PSD_MSG_COMMAND || kind == PSD_MSG_MODEL ||
                                   kind == PSD_MSG_SHARD_STATE;
        const bool by_worker = from & PSD_FROM_WORKER, by_server = from & servers;
        if (server ? among_servers || (in ? by_worker : by_server)
                   : !among_servers && (in ? by_server : by_worker))
            add_name(place, psd_kind_name(kind));
    }
}

static void collect_names(void)
{
    enum { ALONE, KIND, FILE_KIND };
#define FILE FILE_KIND
    static const struct {
        const char *place;
        int what;
    } places[] = {
#define X(place, what) { place, what },
        PSD_FAILPOINT_PLACES(X)
#undef X
    };
#undef FILE
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        if (places[i].what == KIND)
            add_kinds(places[i].place);
        else if (places[i].what == ALONE)
            add_name(places[i].place, "");
        else
            add_name(places[i].place, "safetensors"), add_name(places[i].place, "json");
    }
}

/* ---- the job ---- */

static char fast[PSD_SHA256_TEXT], slow[PSD_SHA256_TEXT];

static void compute_reference(void)
{
    const reference_config_t config = { .data = "glyphs:1200",
                                        .kind = "mlp",
                                        .layers = layers,
                                        .n_layers = 3,
                                        .batch = BATCH,
                                        .seed = SEED,
                                        .rule = RULE };
    reference_t *reference = reference_new(&config);
    cr_assert_not_null(reference);
    reference_run(reference, STEPS, 2);
    reference_hash(reference, fast, slow);
    reference_destroy(&reference);
}

static bool has_fired(void)
{
    char path[128];
    snprintf(path, sizeof path, "%s/fired", cluster.directory);
    return access(path, F_OK) == 0;
}

static bool has_right_weights(const char *file)
{
    char *text = cluster_file(&cluster, file);
    json_t *summary = json_loads(text ? text : "", 0, NULL);
    const char *f = json_string_value(json_object_get(summary, "sha256"));
    const char *s = json_string_value(json_object_get(summary, "sha256_slow"));
    const bool right = f && s && !strcmp(f, fast) && !strcmp(s, slow);
    json_decref(summary);
    free(text);
    return right;
}

/* Train as far as `steps`. Checkpoints often, and few kept, so that each run writes, prunes and, after a
 * death, reads. psdctl's exit code; -1 when it does not end. */
static int train(const char *title, unsigned steps)
{
    cluster_process_t job = { 0 };
    cluster_spawn(
        &cluster, &job, title, "psdctl",
        "run --data-train=glyphs:1200 --data-test=glyphs:100 --data-batch=%d --model-kind=mlp --job=%s-%d "
        "--model-layers=784,16,10 --eval-every=0 --seed=%d --threads=1 --lease=500ms --status-listen=none "
        "--workers-min=2 --servers=2 --checkpoint-dir=%s/ck-%s --checkpoint-every-steps=4 "
        "--checkpoint-keep=2 --run-dir=%s/%s --stop-steps=%u --optimizer=" RULE,
        BATCH, title, (int)getpid(), SEED, cluster.directory, title, cluster.directory, title, steps);
    const int code = cluster_wait(&job, DONE_MS);
    if (code) {
        char *err = cluster_printed(&cluster, &job, "err");
        fprintf(stderr, "%s\n", err);
        free(err);
    }
    if (code < 0)
        kill(job.pid, SIGKILL);
    return code;
}

/* One job, in which `name` is passed for the `at`-th time: whether that happened. */
static bool disturb(const char *name, const char *action, unsigned at)
{
    static unsigned n_jobs;
    char order[NAME + 32], once[128], title[16], file[48];
    snprintf(title, sizeof title, "job-%u", n_jobs++);
    if (!strncmp(name, "srv.load", 8)) /* passed by a job that goes on */
        cr_assert_eq(train(title, STEPS / 2), 0);
    snprintf(order, sizeof order, "%s:%s@%u", name, action, at);
    snprintf(once, sizeof once, "%s/fired", cluster.directory);
    unlink(once);
    setenv("FAILPOINT", order, 1);
    setenv("FAILPOINT_ONCE", once, 1);
    const int code = train(title, STEPS);
    unsetenv("FAILPOINT");
    unsetenv("FAILPOINT_ONCE");
    bool right = code == 0;
    for (unsigned w = 0; right && w < 2; w++) { /* both workers' */
        snprintf(file, sizeof file, w ? "%s/summary-2.json" : "%s/summary.json", title);
        right = has_right_weights(file);
    }
    cr_expect(right, "%s ends with %d, or with other weights", order, code);
    return has_fired();
}

Test(failpoints, a_job_that_loses_a_process_at_any_of_them_ends_with_the_weights_of_an_undisturbed_one)
{
    const bool campaign = cluster_campaign();
    const uint64_t turn = cluster_seed((uint64_t)getpid());
    unsigned jobs = 0, fired = 0;
    collect_names();
    compute_reference();
    for (unsigned i = 0; i < n_names; i++) {
        if (!campaign && (i + turn) % SHARE)
            continue;
        for (unsigned at = 1; at <= (campaign ? 5 : 1); at++, jobs++) {
            const bool did = disturb(names[i], "kill", at);
            fired += did;
            cr_expect(did || at > 1 || is_rare(names[i]), "nobody passes %s", names[i]);
            if (!did)
                break;
        }
        if (campaign || (i + turn) % (SHARE * 3ul) == 0)
            fired += disturb(names[i], "stall", 1), jobs++;
    }
    printf("%u failpoints, %u jobs, %u disturbed (seed %llu)\n", n_names, jobs, fired,
           (unsigned long long)turn);
    fflush(stdout);
}

#else

Test(failpoints, are_compiled_in) { cr_skip_test("this build has none: PSD_FAILPOINTS is off"); }

#endif
