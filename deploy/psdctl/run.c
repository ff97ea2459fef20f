#include "deploy/psdctl/run.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>
#include <uv.h>

#include "common/keys.h"
#include "common/options.h"
#include "deploy/psdctl/child.h"
#include "deploy/psdctl/command.h"
#include "deploy/psdctl/place.h"
#include "deploy/psdctl/verb.h"

enum {
    GRACE_MS = 8000,    /* for a stage of stopping; then the next */
    FINISH_MS = 20000,  /* for servers to end after the last worker has */
    LATE_MS = 5000,     /* for workers to end after the last server has: there is nobody left to speak to */
    UP_MS = 500,        /* who has been up for so long is started again at once; */
    PAUSE_MS = 100,     /* who has not, after a pause that doubles */
    PAUSE_MAX_MS = 3200 /* up to this */
};

typedef struct run run_t;

/* A child, and what is needed to start it again. */
typedef struct post {
    psd_child_t child;
    uv_timer_t again; /* runs while it waits to be started again */
    uint64_t pause_ms;
    char data[256], status[256]; /* of a server: the addresses it has announced */
    unsigned long long run;      /* of the job, by the servers' count, that it was in last; 0: it has not said */
    unsigned starts;
} post_t;

/* How far stopping has come; each stage follows when its time is over or nobody is left to wait for. */
typedef enum { RUNNING, STOP_WORKERS, STOP_SERVERS, KILL_ALL } stage_t;

struct run {
    const psd_options_t *options;
    uv_loop_t loop;
    uv_signal_t term, interrupt;
    uv_timer_t timer; /* start of server 0, stages of stopping */
    post_t *post;     /* servers, then workers */
    unsigned n_servers, n_workers;
    unsigned n_servers_up, n_workers_up; /* those that wait to be started again count too */
    int64_t restarts_left;
    bool has_checkpoints;
    bool drops;          /* workers.lost is drop */
    bool in_rounds;      /* sync.mode is bsp */
    char first_end[512]; /* of whom the first restart was, and why */
    char refused[512];   /* a worker that was started again and refused: it came too late, or the job fails */
    stage_t stage;
    bool interrupted;
    int code; /* exit code so far */
    char directory[PSD_PLACE_DIRECTORY];
    psd_place_t place;
    char server_public[PSD_KEY_TEXT]; /* the servers' public key; "": no keys */
    bool ready;                         /* server 0 has announced itself */
    bool terminal;                      /* stderr can redraw a line */
    bool drawn;                         /* and holds one */
};

static unsigned n_posts(const run_t *run) { return run->n_servers + run->n_workers; }

/* -- what people see ---------------------------------------------------------------------------------------
 */

static void say(run_t *run, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void say(run_t *run, const char *format, ...)
{
    va_list args;
    if (run->drawn)
        fputs("\r\033[K", stderr);
    run->drawn = false;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
}

static void show_progress(run_t *run, const char *fields)
{
    if (!run->terminal) {
        say(run, "%s", fields);
        return;
    }
    fprintf(stderr, "\r\033[K%.110s", fields);
    fflush(stderr);
    run->drawn = true;
}

/* A child's log line, to the terminal if it is news: the first worker's progress, anybody's warnings. */
static void show(run_t *run, const psd_child_t *child, const char *line)
{
    static const char progress[] = "id=train.progress ";
    const char *fields = strstr(line, progress);
    bool wanted = strcmp(psd_options_string(run->options, "progress"), "none") != 0;
    if (fields && !child->is_server && child->index == 1 && wanted)
        show_progress(run, fields + sizeof progress - 1);
    else if (psd_child_is_loud(line) &&
             run->stage == RUNNING) /* later, everybody complains of being stopped */
        say(run, "[%s] %s", child->role, line);
}

/* -- stopping ----------------------------------------------------------------------------------------------
 */

static void signal_children(run_t *run, bool servers, bool workers, int number)
{
    for (unsigned i = 0; i < n_posts(run); i++)
        if (run->post[i].child.is_server ? servers : workers)
            psd_child_kill(&run->post[i].child, number);
}

static bool is_waiting(const post_t *post) { return uv_is_active((const uv_handle_t *)&post->again); }

static void count_down(run_t *run, const psd_child_t *child)
{
    if (child->is_server)
        run->n_servers_up--;
    else
        run->n_workers_up--;
    if (run->n_servers_up + run->n_workers_up == 0) {
        uv_timer_stop(&run->timer);
        uv_stop(&run->loop);
    }
}

/* Nobody is started any more. */
static void forget_restarts(run_t *run)
{
    for (unsigned i = 0; i < n_posts(run); i++)
        if (is_waiting(&run->post[i])) {
            uv_timer_stop(&run->post[i].again);
            count_down(run, &run->post[i].child);
        }
}

static void on_stage_over(uv_timer_t *timer);

/* Workers first, so that they can end their round and say goodbye; then servers; then whoever is left, hard.
 */
static void enter_stage(run_t *run, stage_t stage)
{
    if (stage <= run->stage)
        return;
    run->stage = stage;
    uv_timer_start(&run->timer, on_stage_over, GRACE_MS, 0);
    forget_restarts(run);
    if (stage == STOP_WORKERS && !run->n_workers_up)
        run->stage = STOP_SERVERS;
    if (run->stage == STOP_WORKERS)
        signal_children(run, false, true, SIGTERM);
    else if (run->stage == STOP_SERVERS)
        signal_children(run, true, true, SIGTERM);
    else
        signal_children(run, true, true, SIGKILL);
}

/* Keep the first failure, name it, and stop. */
static void fail(run_t *run, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));

static void fail(run_t *run, int code, const char *format, ...)
{
    char sentence[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(sentence, sizeof sentence, format, args);
    va_end(args);
    if (run->stage == RUNNING && run->code == 0) {
        run->code = code;
        say(run, "psdctl: %s", sentence);
    }
    enter_stage(run, STOP_WORKERS);
}

static void on_stage_over(uv_timer_t *timer)
{
    run_t *run = timer->data;
    if (run->stage == RUNNING && *run->refused)
        fail(run, psd_err_exit_code(PSD_EREFUSED), "%s", run->refused);
    else if (run->stage < KILL_ALL)
        enter_stage(run, run->stage + 1);
}

static void on_signal(uv_signal_t *handle, int number)
{
    run_t *run = handle->data;
    (void)number;
    if (run->interrupted) {
        enter_stage(run, KILL_ALL);
        return;
    }
    run->interrupted = true;
    if (run->code == 0)
        run->code = psd_err_exit_code(PSD_ESTOPPED);
    say(run, "psdctl: stopping after this round; once more to stop at once");
    enter_stage(run, STOP_WORKERS);
}

static void on_unready(uv_timer_t *timer)
{
    run_t *run = timer->data;
    fail(run, psd_err_exit_code(PSD_EUNAVAILABLE),
         "server 0 was not ready within %s; see %s/logs/server-0.log",
         psd_options_text(run->options, "join_timeout"), run->directory);
}

/* -- starting, and starting again ---------------------------------------------------------------------------
 */

static bool start(run_t *run, unsigned i)
{
    post_t *post = &run->post[i];
    psd_child_t *child = &post->child;
    char log[PATH_MAX];
    psd_command_t command;
    const psd_command_facts_t facts = { .options = run->options,
                                        .bin = run->place.bin,
                                        .run_dir = run->directory,
                                        .join = run->post[0].data,
                                        .server_public = run->server_public,
                                        .index = child->index,
                                        .n_servers = run->n_servers,
                                        .n_workers = run->n_workers,
                                        .data = post->data,
                                        .status = post->status,
                                        .short_progress = run->terminal };
    (child->is_server ? psd_command_server : psd_command_worker)(&command, &facts);
    snprintf(log, sizeof log, "%s/logs/%s-%u.log", run->directory, child->is_server ? "server" : "worker",
             child->index);
    post->starts++;
    int rc = psd_child_start(child, &run->loop, run->place.self, command.word, log);
    psd_command_clear(&command);
    if (rc)
        fail(run, psd_err_exit_code(PSD_ESYSTEM), "cannot start %s: %s", child->role, uv_strerror(rc));
    return rc == 0;
}

static void start_first(run_t *run, unsigned i)
{
    if (run->post[i].child.is_server)
        run->n_servers_up++;
    else
        run->n_workers_up++;
    start(run, i);
}

static void on_again(uv_timer_t *timer)
{
    post_t *post = timer->data;
    run_t *run = post->child.owner;
    start(run, (unsigned)(post - run->post));
}

/* At once, or after a pause when it cannot stay up; the pause is over for one that has stayed. */
static void start_again(run_t *run, post_t *post)
{
    uint64_t up_ms = uv_now(&run->loop) - post->child.started_ms;
    uint64_t longer = post->pause_ms ? 2 * post->pause_ms : PAUSE_MS;
    post->pause_ms = up_ms >= UP_MS ? 0 : longer < PAUSE_MAX_MS ? longer : PAUSE_MAX_MS;
    uv_timer_start(&post->again, on_again, post->pause_ms, 0);
}

/* -- ends --------------------------------------------------------------------------------------------------
 */

/* Whether another start may do better: not after a good end, nor after what would only be said again, such as
 * a wrong option, missing data, a refusal or a target that was not met. */
static bool is_lost(const psd_child_t *child)
{
    static const int final[] = { PSD_OK,       PSD_EDIVERGED, PSD_EUSAGE, PSD_EDATA,
                                 PSD_ENOINPUT, PSD_EREFUSED,  PSD_EAUTH,  PSD_ECONFIG };
    for (size_t i = 0; !child->signal && i < sizeof final / sizeof *final; i++)
        if (child->code == psd_err_exit_code(final[i]))
            return false;
    return true;
}

/* A server without checkpoints has taken the weights with it; when the other side is through, there is
 * nothing to come back to. */
static bool may_come_back(const run_t *run, const psd_child_t *child)
{
    if (run->stage != RUNNING || !is_lost(child))
        return false;
    if (child->is_server)
        return run->has_checkpoints && (run->n_workers_up > 0 || !run->ready);
    return run->n_servers_up > 0 && !run->drops;
}

/* A lost worker that the others go on without. */
static bool is_dropped(const run_t *run, const psd_child_t *child)
{
    return run->drops && run->stage == RUNNING && !child->is_server && is_lost(child) &&
           run->n_workers_up > (unsigned)psd_options_int(run->options, "workers.min");
}

static void call_back(run_t *run, post_t *post)
{
    say(run, "run.restart role=\"%s\" ended=\"well, but is needed again\" left=%" PRId64, post->child.role,
        run->restarts_left);
    start_again(run, post);
}

/* The rounds that a lost server takes with it may be the last ones: who had ended well is needed again.
 * Without rounds everybody's work is their own, and what a finished worker did is not asked for twice. */
static void call_back_finished(run_t *run)
{
    for (unsigned i = 0; i < n_posts(run); i++) {
        post_t *post = &run->post[i];
        bool finished = post->starts && !psd_child_is_here(&post->child) && !is_waiting(post) &&
                        !post->child.code && !post->child.signal;
        if (!finished || !(post->child.is_server || run->in_rounds))
            continue;
        *(post->child.is_server ? &run->n_servers_up : &run->n_workers_up) += 1;
        call_back(run, post);
    }
}

/* Server 0 was started again, and this child has ended well by the word of the one before: what was finished then is
 * undone, and it is needed again. */
static bool ended_too_early(run_t *run, const post_t *post)
{
    const post_t *first = &run->post[0];
    return run->stage == RUNNING && run->in_rounds && run->has_checkpoints && post != first && !post->child.code &&
           !post->child.signal && post->run && post->run != first->run &&
           (psd_child_is_here(&first->child) || is_waiting(first));
}

/* Have it started again, if that is possible; false when its end is for good. */
static bool come_back(run_t *run, post_t *post)
{
    char end[450];
    if (ended_too_early(run, post)) {
        call_back(run, post);
        return true;
    }
    if (!may_come_back(run, &post->child) || run->restarts_left == 0)
        return false;
    psd_child_describe_end(&post->child, end, sizeof end);
    if (!*run->first_end)
        snprintf(run->first_end, sizeof run->first_end, "%s, which %s", post->child.role, end);
    post->run = 0;
    run->restarts_left--;
    say(run, "run.restart role=\"%s\" ended=\"%s\" left=%" PRId64, post->child.role, end, run->restarts_left);
    start_again(run, post);
    if (post->child.is_server)
        call_back_finished(run);
    return true;
}

/* An end that harms nobody: a server's when all workers had theirs, with the weights saved. */
static bool is_late(const run_t *run, const psd_child_t *child)
{
    return run->stage == RUNNING && child->is_server && is_lost(child) && run->ready && !run->n_workers_up &&
           run->has_checkpoints && run->in_rounds;
}

/* A worker that was started again is refused by servers that have finished in the meantime. Whether they have
 * is seen when they end; until then it is no failure. */
static bool may_be_too_late(const run_t *run, const psd_child_t *child)
{
    return run->stage == RUNNING && run->n_servers_up && !child->is_server &&
           ((const post_t *)child)->starts > 1 && child->code == psd_err_exit_code(PSD_EREFUSED);
}

static void tell_how_it_ended(run_t *run, const psd_child_t *child)
{
    char end[450], spent[640] = "";
    int code = child->signal ? psd_err_exit_code(PSD_EDIVERGED) : (int)child->code;
    psd_child_describe_end(child, end, sizeof end);
    if (may_come_back(run, child) && *run->first_end)
        snprintf(spent, sizeof spent, "; all %" PRId64 " restarts are used, the first for %s",
                 psd_options_int(run->options, "restarts"), run->first_end);
    if (is_late(run, child)) {
        say(run, "run.late role=\"%s\" ended=\"%s\" effect=\"none: all workers had finished\"", child->role,
            end);
    } else if (is_dropped(run, child)) {
        say(run, "run.dropped role=\"%s\" ended=\"%s\" left=%u", child->role, end, run->n_workers_up - 1);
    } else if (may_be_too_late(run, child)) {
        say(run, "run.late role=\"%s\" ended=\"%s\" effect=\"none, if the servers are finished\"",
            child->role, end);
        snprintf(run->refused, sizeof run->refused, "%s %s", child->role, end);
    } else if (code) {
        fail(run, code, "%s %s%s", child->role, end, spent);
    } else if (child->is_server && !run->ready) {
        fail(run, psd_err_exit_code(PSD_EUNAVAILABLE), "%s ended before it was ready", child->role);
    }
}

/* Whoever is left when one side is through has only so long. */
static void tend_end(run_t *run)
{
    if (run->stage == STOP_WORKERS && run->n_workers_up == 0)
        enter_stage(run, STOP_SERVERS);
    else if (run->stage == RUNNING && run->ready && run->n_servers_up == 0)
        uv_timer_start(&run->timer, on_stage_over, LATE_MS, 0);
    else if (run->stage == RUNNING && run->ready && (run->n_workers_up == 0 || *run->refused))
        uv_timer_start(&run->timer, on_stage_over, FINISH_MS, 0);
}

static void on_gone(psd_child_t *child)
{
    run_t *run = child->owner;
    if (come_back(run, (post_t *)child))
        return;
    tell_how_it_ended(run, child);
    if (child->is_server && !child->code && !child->signal)
        run->refused[0] = '\0'; /* so it was */
    count_down(run, child);
    if (run->n_servers_up + run->n_workers_up)
        tend_end(run);
}

/* "psd ready shard=0/2 data=tcp://... status=http://... job=NAME run=ID"; the others wait for server 0's first. */
static void on_ready(run_t *run, post_t *post, const char *line)
{
    sscanf(line, "psd ready %*s %*s %*s %*s run=%llx", &post->run);
    if (sscanf(line, "psd ready shard=%*u/%*u data=%255s status=%255s", post->data, post->status) != 2) {
        post->data[0] = '\0';
        fail(run, psd_err_exit_code(PSD_EPROTO), "%s says \"%.100s\"; is it of another version?",
             post->child.role, line);
        return;
    }
    if (run->ready || post->child.index != 0)
        return;
    run->ready = true;
    uv_timer_stop(&run->timer);
    say(run, "status %s", post->status);
    for (unsigned i = 1; i < n_posts(run) && run->stage == RUNNING; i++)
        start_first(run, i);
}

static void on_said(psd_child_t *child, bool on_stderr, const char *line)
{
    run_t *run = child->owner;
    if (on_stderr)
        show(run, child, line);
    else if (child->is_server && strncmp(line, "psd ready ", 10) == 0)
        on_ready(run, (post_t *)child, line);
    else if (!child->is_server)
        sscanf(line, "%*s run=%llx", &((post_t *)child)->run);
}

int psd_ctl_child(int argc, char **argv)
{
    if (argc < 3)
        return psd_err_exit_code(PSD_EUSAGE);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if ((long)getppid() != strtol(argv[1], NULL, 10))
        return psd_err_exit_code(PSD_ESTOPPED); /* the parent died before the line above */
    setpgid(0, 0);
    execv(argv[2], argv + 2);
    fprintf(stderr, "cannot run %s: %s\n", argv[2], strerror(errno));
    return psd_err_exit_code(PSD_ENOINPUT);
}

/* -- the run -----------------------------------------------------------------------------------------------
 */

static void print_value(const char *key, const json_t *value)
{
    if (json_is_string(value))
        printf("  %-13s %s\n", key, json_string_value(value));
    else if (json_is_integer(value))
        printf("  %-13s %" JSON_INTEGER_FORMAT "\n", key, json_integer_value(value));
    else if (json_is_real(value))
        printf("  %-13s %.6g\n", key, json_real_value(value));
}

/* The first worker's summary, as far as it got. */
static void print_summary(const run_t *run)
{
    static const char *const hidden[] = { "schema",         "job",          "worker",  "rank", "settings",
                                          "sha256_initial", "sha256_order", "begun_ts" };
    char path[PATH_MAX];
    const char *key;
    json_t *value;
    snprintf(path, sizeof path, "%s/summary.json", run->directory);
    json_t *summary = json_load_file(path, 0, NULL);
    printf("%s: %s\n", psd_options_string(run->options, "job"),
           run->code == 0                                 ? "done"
           : run->code == psd_err_exit_code(PSD_ESTOPPED) ? "stopped early"
                                                          : "failed");
    json_object_foreach(summary, key, value)
    {
        bool hide = false;
        for (size_t i = 0; i < sizeof hidden / sizeof *hidden; i++)
            hide = hide || strcmp(key, hidden[i]) == 0;
        if (!hide)
            print_value(key, value);
    }
    printf("  %-13s %s\n", "kept in", run->directory);
    json_decref(summary);
}

static void ignore_close(uv_handle_t *handle) { (void)handle; }

static void man_posts(run_t *run)
{
    for (unsigned i = 0; i < n_posts(run); i++) {
        post_t *post = &run->post[i];
        psd_child_t *child = &post->child;
        child->owner = run;
        child->is_server = i < run->n_servers;
        child->index = child->is_server ? i : i - run->n_servers + 1;
        child->said = on_said;
        child->gone = on_gone;
        snprintf(child->role, sizeof child->role, "%s %u", child->is_server ? "server" : "worker",
                 child->index);
        uv_timer_init(&run->loop, &post->again);
        post->again.data = post;
    }
}

static int drive(run_t *run)
{
    uv_loop_init(&run->loop);
    uv_timer_init(&run->loop, &run->timer);
    uv_signal_init(&run->loop, &run->term);
    uv_signal_init(&run->loop, &run->interrupt);
    run->timer.data = run->term.data = run->interrupt.data = run;
    uv_signal_start(&run->term, on_signal, SIGTERM);
    uv_signal_start(&run->interrupt, on_signal, SIGINT);
    uv_timer_start(&run->timer, on_unready, psd_options_ms(run->options, "join_timeout"), 0);
    man_posts(run);
    start_first(run, 0);
    uv_run(&run->loop, UV_RUN_DEFAULT);
    for (unsigned i = 0; i < n_posts(run); i++)
        uv_close((uv_handle_t *)&run->post[i].again, ignore_close);
    uv_close((uv_handle_t *)&run->timer, ignore_close);
    uv_close((uv_handle_t *)&run->term, ignore_close);
    uv_close((uv_handle_t *)&run->interrupt, ignore_close);
    uv_run(&run->loop, UV_RUN_DEFAULT);
    uv_loop_close(&run->loop);
    if (run->drawn)
        fputc('\n', stderr);
    print_summary(run);
    return run->code;
}

/* Without keys, all children take anybody of this machine; with some, the lacking ones are missed here already. */
static int find_keys(run_t *run, psd_err_t *err)
{
    static const char *const options[] = { "server.key", "worker.key", "allow" };
    enum { N = sizeof options / sizeof *options };
    const char *lacks = NULL;
    unsigned n = 0;
    for (unsigned i = 0; i < N; i++)
        if (*psd_options_string(run->options, options[i]))
            n++;
        else
            lacks = options[i];
    if (n == 0)
        return PSD_OK;
    if (n < N)
        return psd_err_set(err, PSD_ECONFIG, "a job with keys has server.key, worker.key and allow; %s lacks", lacks);
    psd_keys_t keys;
    int rc = psd_keys_load(&keys, &(psd_keys_source_t){ .secret = psd_options_string(run->options, "server.key"),
                                                        .server = psd_options_string(run->options, "server.public"),
                                                        .insecure = psd_options_bool(run->options, "insecure"),
                                                        .is_server = true }, err);
    memcpy(run->server_public, keys.server, sizeof keys.server);
    psd_keys_wipe(&keys);
    return rc;
}

static int prepare(run_t *run, psd_err_t *err)
{
    int64_t least = psd_options_int(run->options, "workers.min"),
            want = psd_options_int(run->options, "workers.want");
    char logs[PATH_MAX];
    psd_place_choose(run->options, "", run->directory);
    snprintf(logs, sizeof logs, "%s/logs", run->directory);
    int rc = psd_place_find(&run->place, err);
    rc = rc ? rc : psd_place_make(logs, err);
    rc = rc ? rc : find_keys(run, err);
    if (rc)
        return rc;
    run->n_servers = (unsigned)psd_options_int(run->options, "servers");
    run->n_workers = (unsigned)(want > least ? want : least);
    run->restarts_left = psd_options_int(run->options, "restarts");
    run->has_checkpoints = *psd_options_string(run->options, "checkpoint.dir");
    run->drops = strcmp(psd_options_string(run->options, "workers.lost"), "drop") == 0;
    run->in_rounds = strcmp(psd_options_string(run->options, "sync.mode"), "bsp") == 0;
    run->post = calloc(n_posts(run), sizeof *run->post);
    run->terminal = psd_place_can_redraw(run->options);
    return run->post ? PSD_OK : psd_err_set(err, PSD_ENOMEM, "no memory for %u children", n_posts(run));
}

int psd_ctl_run(int argc, char **argv)
{
    psd_err_t err = { 0 };
    psd_options_t *options = psd_options_new(PSD_PROGRAM_CTL);
    static run_t run;
    if (!options)
        return psd_err_exit_code(PSD_ENOMEM);
    int rc = psd_options_load(options, argc, argv, &err), code = 0;
    run = (run_t){ .options = options };
    if (rc == PSD_OK)
        rc = prepare(&run, &err);
    else if (rc < 0 && *psd_options_complaints(options))
        snprintf(err.text, sizeof err.text, "%s", psd_options_complaints(options));
    if (rc == PSD_OK)
        code = drive(&run);
    else if (rc < 0)
        fprintf(stderr, "%s\n", err.text);
    free(run.post);
    psd_options_destroy(&options);
    return rc < 0 ? psd_err_exit_code(rc) : code;
}

static int run_verb(const psd_args_t *args) { return psd_ctl_run(args->argc, args->argv); }

const psd_verb_t psd_verb_run = {
    .name = "run",
    .words = "[JOB]",
    .does = "train a whole job on this machine",
    .about = "Starts the servers and the workers, starts again what dies, shows progress, and prints the summary.",
    .options = PSD_PROGRAM_CTL,
    .is_raw = true,
    .examples = "psdctl run job.yaml\npsdctl run job.yaml --servers=2 --workers-min=3 --optimizer='adam(lr=0.05)'\n",
    .exits = "that of the first child that failed and was not started again; 1 when a signal killed it; 75 after SIGINT or "
             "SIGTERM",
    .run = run_verb,
};
