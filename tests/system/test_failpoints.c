#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/system/failpoint.h"
#include "proto/message.h"
#include "tests/support/job.h"

/* At each failpoint (common/system/failpoint.h) a process of a job is killed, or stalls for longer than its lease, once. psdctl run
 * restarts a killed process, and the final weights are those of one process. `PSD_CAMPAIGN=1` takes every failpoint five times;
 * otherwise some are chosen by seed. */

#ifdef PSD_FAILPOINTS

enum { STEPS = 24, SHARE = 10, MOST = 256, NAME = 64 };
#define RULE "lookahead(adam(lr=0.002),k=5)"

static job_t job;
TestSuite(failpoints, .timeout = 5400);

/* ---- their names ---- */

static char names[MOST][NAME];
static unsigned n_names;

static void add_name(const char *place, const char *what)
{
    cr_assert_lt(n_names, MOST);
    snprintf(names[n_names++], NAME, "%s%s%s", place, *what ? "." : "", what);
}

/* Messages that this job need not have: about trouble, and for requests. */
static bool is_rare(const char *name)
{
    static const char *const kinds[] = { "REFUSED", "WAIT", "FENCED", "PROBE", "PROGRESS", "SETTING", "ADMIN" };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (!strcmp(strrchr(name, '.') + 1, kinds[i]))
            return true;
    return false;
}

/* A place for messages has one failpoint per kind that its side may send or receive there. */
static void add_kinds(const char *place)
{
    const bool server = !strncmp(place, "srv", 3), in = !strcmp(place + 4, "recv");
    const unsigned servers = PSD_FROM_SHARD | PSD_FROM_COORDINATOR;
    for (psd_kind_t kind = 1; kind <= PSD_MSG_ADMIN; kind++) {
        const unsigned from = psd_kind_sender(kind);
        const bool among_servers = kind == PSD_MSG_SHARD_HELLO || kind == PSD_MSG_SHARD_WELCOME || kind == PSD_MSG_COMMAND ||
                                   kind == PSD_MSG_MODEL || kind == PSD_MSG_SHARD_STATE;
        const bool by_worker = from & PSD_FROM_WORKER, by_server = from & servers;
        if (server ? among_servers || (in ? by_worker : by_server) : !among_servers && (in ? by_server : by_worker))
            add_name(place, psd_kind_name(kind));
    }
}

static void collect_names(void)
{
    enum { ALONE, BY_KIND, BY_FILE };
    static const struct {
        const char *place;
        int what;
    } places[] = {
#define X(place, what) { place, what },
        PSD_FAILPOINT_PLACES(X)
#undef X
    };
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        if (places[i].what == BY_KIND)
            add_kinds(places[i].place);
        else if (places[i].what == ALONE)
            add_name(places[i].place, "");
        else
            add_name(places[i].place, "safetensors"), add_name(places[i].place, "json");
    }
}

/* ---- the job ---- */

/* Train as far as `steps`. Checkpoints often, and few kept, so that each run writes, prunes and, after a
 * death, reads. */
static void train(unsigned steps)
{
    job_start(&job, "--lease=500ms --checkpoint-every-steps=4 --checkpoint-keep=2 --stop-steps=%u --optimizer=" RULE, steps);
    job_expect_code(&job, 0);
}

/* One job, in which `name` fires at the `at`-th pass; returns whether it did. */
static bool disturb(const char *name, const char *action, unsigned at)
{
    char order[NAME + 32], once[128];
    job_open(&job, 2, 2);
    if (!strncmp(name, "srv.load", 8)) /* a job that continues has passed it */
        train(STEPS / 2);
    snprintf(order, sizeof order, "%s:%s@%u", name, action, at);
    snprintf(once, sizeof once, "%s/fired", job.cluster.directory);
    printf("%s\n", order); /* a job that does not end as it should ends the test */
    fflush(stdout);
    setenv("FAILPOINT", order, 1);
    setenv("FAILPOINT_ONCE", once, 1);
    train(STEPS);
    unsetenv("FAILPOINT");
    unsetenv("FAILPOINT_ONCE");
    job_expect_weights(&job, RULE, STEPS);
    const bool fired = access(once, F_OK) == 0;
    job_close(&job);
    return fired;
}

Test(failpoints, a_job_that_loses_a_process_at_any_of_them_ends_with_the_weights_of_an_undisturbed_one)
{
    const bool campaign = cluster_campaign();
    const uint64_t turn = cluster_seed((uint64_t)getpid());
    unsigned jobs = 0, fired = 0;
    collect_names();
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
    printf("%u failpoints, %u jobs, %u disturbed (seed %llu)\n", n_names, jobs, fired, (unsigned long long)turn);
    fflush(stdout);
}

#else

Test(failpoints, are_compiled_in) { cr_skip_test("this build has none: PSD_FAILPOINTS is off"); }

#endif
