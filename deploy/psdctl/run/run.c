#include "deploy/psdctl/run/run.h"

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
#include <sys/stat.h>
#include <unistd.h>
#include <uv.h>

#include "common/system/failpoint.h"
#include "common/system/hangup.h"
#include "common/base/logtext.h"
#include "common/config/options.h"
#include "common/system/log.h"
#include "common/system/outputs.h"
#include "deploy/psdctl/run/agent.h"
#include "deploy/psdctl/run/child.h"
#include "deploy/psdctl/run/command.h"
#include "deploy/psdctl/run/live.h"
#include "deploy/psdctl/run/order.h"
#include "deploy/psdctl/run/place.h"
#include "deploy/psdctl/run/plan.h"
#include "deploy/psdctl/run/rundir.h"
#include "deploy/psdctl/run/restarts.h"
#include "deploy/psdctl/run/summary.h"
#include "deploy/psdctl/verb.h"
#include "server/core/mode.h"

enum {
    GRACE_MS = 8000,    /* for workers to stop; then the servers; */
    SAVE_MS = 40000,    /* for servers, which have 30 s for a last checkpoint; then all are killed */
    FINISH_MS = 20000,  /* for servers to end after the last worker has */
    LATE_MS = 5000,     /* for workers to end after the last server has, because they have no peer left */
    UP_MS = 500,        /* a child that was up for this long is restarted at once; */
    PAUSE_MS = 100,     /* any other, after a pause that doubles */
    PAUSE_MAX_MS = 3200 /* up to this */
};

typedef struct run run_t;

/* A child, and the data to restart it. */
typedef struct post {
    psd_child_t child;
    const psd_host_t *host; /* its host; NULL: this machine */
    bool is_met;            /* the host's agent has answered: host, shell and programs work */
    uv_timer_t again;       /* runs while it waits to be restarted */
    uint64_t pause_ms;
    char data[256], status[256]; /* of a server: the addresses it has announced */
    unsigned long long run;      /* the job's run, by the servers' count, that it was in last; 0: unknown */
    unsigned starts;
    psd_restarts_t restarts;
    char first_end[640]; /* the reason for its first restart */
    char line[512];      /* of a worker: its last line */
    bool has_joined;     /* of a worker: server 0 has logged that it was in the job */
    bool may_end;        /* and that its work is done, or that an operator has asked it to leave */
    double begun_ts;     /* of a restarted worker: when its first process began to train */
} post_t;

/* The stages of stopping; each follows when the time of the one before is over, or when no process is left to wait for. */
typedef enum { RUNNING, STOP_WORKERS, STOP_SERVERS, KILL_ALL } stage_t;

struct run {
    const psd_options_t *options;
    uv_loop_t loop;
    uv_signal_t term, interrupt, hangup;
    uv_timer_t timer; /* start of server 0, stages of stopping */
    uv_timer_t alive; /* sends a message to all agents */
    post_t *post;     /* servers, then workers */
    psd_plan_t plan;
    char *const *program;                /* the user's program instead of psd-worker; NULL: none */
    psd_rundir_t rundir;                 /* plan.directory, locked until the end */
    unsigned n_servers_up, n_workers_up; /* including those that wait to be restarted */
    int64_t restarts;                    /* per child */
    bool has_checkpoints;
    bool drops;        /* workers.lost is drop */
    bool in_rounds;    /* sync.mode is bsp */
    bool hears_joins;  /* server 0 logs each worker that joins */
    bool has_stranger; /* one has joined by a number that psdctl has not given */
    char refused[640]; /* a restarted worker that was refused: it came too late, or the job fails */
    stage_t stage;
    bool interrupted;
    int code;         /* exit code so far */
    bool ready;       /* server 0 has announced itself */
    psd_live_t *live; /* the display */
};

static unsigned n_posts(const run_t *run) { return run->plan.n_servers + run->plan.n_workers; }

/* -- what people see --------------------------------------------------------------------------------------- */

static void say(run_t *run, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Text between quotes is escaped, so that an event's fields can be parsed. */
static void say(run_t *run, const char *format, ...)
{
    char line[PSD_CHILD_LINE + 256];
    va_list args;
    va_start(args, format);
    psd_logtext_compose(line, sizeof line, format, args);
    va_end(args);
    psd_live_say(run->live, line);
}

/* Count the workers whose process is gone and did not succeed. */
static void count_gone(run_t *run)
{
    unsigned n = 0;
    for (unsigned i = run->plan.n_servers; i < n_posts(run); i++) {
        const post_t *post = &run->post[i];
        n += post->starts && !psd_child_is_here(&post->child) && (post->child.code || post->child.signal);
    }
    psd_live_gone(run->live, uv_now(&run->loop), n);
}

/* A line of server 0's log. */
static void hear(run_t *run, const char *line)
{
    psd_live_event_t event;
    const int worker = psd_live_heard(run->live, uv_now(&run->loop), line, &event);
    if (worker < 0)
        return;
    if ((unsigned)worker >= run->plan.n_workers) {
        run->has_stranger = true;
        return;
    }
    post_t *post = &run->post[run->plan.n_servers + (unsigned)worker];
    post->has_joined = true;
    post->may_end = event == PSD_LIVE_FINISHED || event == PSD_LIVE_ASKED || (event == PSD_LIVE_LEFT && post->may_end);
}

/* Show a child's log line on the terminal if it is news: the first worker's progress, or any child's warning. */
static void show(run_t *run, const psd_child_t *child, const char *line)
{
    if (child == &run->post[0].child)
        hear(run, line);
    if (child == &run->post[run->plan.n_servers].child && !run->program && psd_live_progress(run->live, uv_now(&run->loop), line))
        return;
    if (psd_child_is_loud(line) && run->stage == RUNNING) /* later, every child reports that it was stopped */
        say(run, "[%s] %s", child->role, line);
}

/* -- stopping ---------------------------------------------------------------------------------------------- */

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

/* No process is started any more. */
static void forget_restarts(run_t *run)
{
    for (unsigned i = 0; i < n_posts(run); i++)
        if (is_waiting(&run->post[i])) {
            uv_timer_stop(&run->post[i].again);
            count_down(run, &run->post[i].child);
        }
}

static void on_stage_over(uv_timer_t *timer);

/* Stop workers first, so that they can end their round and leave the job; then servers; then kill the rest. */
static void enter_stage(run_t *run, stage_t stage)
{
    if (stage <= run->stage)
        return;
    run->stage = stage;
    forget_restarts(run);
    if (stage == STOP_WORKERS && !run->n_workers_up)
        run->stage = STOP_SERVERS;
    uv_timer_start(&run->timer, on_stage_over, run->stage == STOP_SERVERS ? SAVE_MS : GRACE_MS, 0);
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
    char sentence[1536];
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
    else if (run->stage == RUNNING && run->n_servers_up && !run->n_workers_up)
        fail(run, psd_err_exit_code(PSD_EDIVERGED), "all workers have ended, but the servers wait for more work%s",
             run->program ? ": check that the program joins the job, and leaves it as finished" : "");
    else if (run->stage < KILL_ALL)
        enter_stage(run, run->stage + 1);
}

static void on_signal(uv_signal_t *handle, int number)
{
    run_t *run = handle->data;
    if (run->interrupted && number == SIGHUP)
        return;
    if (run->interrupted) {
        enter_stage(run, KILL_ALL);
        return;
    }
    run->interrupted = true;
    if (run->code == 0)
        run->code = psd_err_exit_code(PSD_ESTOPPED);
    say(run, "psdctl: stopping after this round; press Ctrl-C again to stop at once");
    enter_stage(run, STOP_WORKERS);
}

static void on_unready(uv_timer_t *timer)
{
    run_t *run = timer->data;
    fail(run, psd_err_exit_code(PSD_EUNAVAILABLE), "server 0 was not ready within %s; see %s/logs/server-0.log",
         psd_options_text(run->options, PSD_OPT_join_timeout), run->plan.directory);
}

/* -- starting and restarting --------------------------------------------------------------------------- */

/* On another host, the remote shell starts the agent, which gets the program's words. */
static int start_far(run_t *run, post_t *post, const psd_command_t *program, const char *log)
{
    psd_command_t shell;
    char *order =
        psd_order_print(run->plan.here, run->plan.directory, program->word, run->plan.keyring.is_drawn ? &run->plan.keyring : NULL);
    if (!order)
        return UV_ENOMEM;
    psd_command_shell(&shell, psd_options_string(run->options, PSD_OPT_remote_shell), post->host->target, run->plan.far_bin);
    int rc = psd_child_start(&post->child, &run->loop, run->plan.place.self, shell.word, order, log);
    psd_command_clear(&shell);
    explicit_bzero(order, strlen(order));
    free(order);
    return rc;
}

static bool start(run_t *run, unsigned i)
{
    post_t *post = &run->post[i];
    psd_child_t *child = &post->child;
    char log[PATH_MAX];
    psd_command_t command;
    const psd_command_facts_t facts = { .options = run->options,
                                        .bin = post->host ? NULL : run->plan.place.bin,
                                        .address = post->host ? post->host->address : NULL,
                                        .run_dir = run->plan.directory,
                                        .join = run->post[0].data,
                                        .server_public = run->plan.keyring.server_public,
                                        .index = child->index,
                                        .n_servers = run->plan.n_servers,
                                        .n_workers = run->plan.n_workers,
                                        .least = run->plan.least,
                                        .data = post->data,
                                        .status = post->status,
                                        .short_progress = psd_live_has_bar(run->live),
                                        .program = run->program };
    (child->is_server ? psd_command_server : psd_command_worker)(&command, &facts);
    snprintf(log, sizeof log, "%s/logs/%s-%u.log", run->plan.directory, child->is_server ? "server" : "worker", child->index);
    post->starts++;
    int rc = post->host ? start_far(run, post, &command, log)
                        : psd_child_start(child, &run->loop, run->plan.place.self, command.word, NULL, log);
    psd_command_clear(&command);
    if (rc)
        fail(run, psd_err_exit_code(PSD_ESYSTEM), "cannot start %s: %s", child->role, uv_strerror(rc));
    if (!child->is_server && run->stage == RUNNING)
        count_gone(run);
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

/* Restart it at once or, if it did not stay up, after a pause; the pause is reset for one that stayed up. */
static void start_again(run_t *run, post_t *post)
{
    uint64_t up_ms = uv_now(&run->loop) - post->child.started_ms;
    uint64_t longer = post->pause_ms ? 2 * post->pause_ms : PAUSE_MS;
    post->pause_ms = up_ms >= UP_MS ? 0 : longer < PAUSE_MAX_MS ? longer : PAUSE_MAX_MS;
    uv_timer_start(&post->again, on_again, post->pause_ms, 0);
}

/* -- ends -------------------------------------------------------------------------------------------------- */

static bool is_among(const psd_child_t *child, const int *codes, size_t n)
{
    while (n && child->code != psd_err_exit_code(codes[n - 1]))
        n--;
    return n;
}

/* Whether a restart may help: not after success, and not after an error that it would repeat, such as a wrong option, missing data,
 * an output that cannot be written, a refusal or a target that was not met. A user's program may have exit codes with a meaning
 * unknown to psdctl; a shell around it exits with 128 plus the number of the signal that killed it. */
static bool is_lost(const psd_child_t *child)
{
    static const int final[] = { PSD_OK,       PSD_EDIVERGED, PSD_EUSAGE, PSD_EDATA,  PSD_EIO,
                                 PSD_ENOINPUT, PSD_EREFUSED,  PSD_EAUTH,  PSD_ECONFIG };
    static const int passing[] = { PSD_EUNAVAILABLE, PSD_ESTOPPED };
    const run_t *run = child->owner;
    if (child->signal)
        return true;
    if (run->program && !child->is_server)
        return child->code > 128 || is_among(child, passing, sizeof passing / sizeof *passing);
    return !is_among(child, final, sizeof final / sizeof *final);
}

/* A server without checkpoints has lost its weights; and when the other side has ended, there is no job to return to. */
static bool may_come_back(const run_t *run, const psd_child_t *child)
{
    const post_t *post = (const post_t *)child;
    if (run->stage != RUNNING || !is_lost(child) || (post->host && !post->is_met))
        return false; /* retrying does not help if the host cannot be reached, or has no programs */
    if (child->is_server)
        return run->has_checkpoints && (run->n_workers_up > 0 || !run->ready);
    return run->n_servers_up > 0 && !run->drops;
}

/* Whether a worker is lost but the others continue without it. */
static bool is_dropped(const run_t *run, const psd_child_t *child)
{
    return run->drops && run->stage == RUNNING && !child->is_server && is_lost(child) && run->n_workers_up > run->plan.least;
}

static void call_back(run_t *run, post_t *post)
{
    say(run, "run.restart role=\"%s\" ended=\"finished, but is needed again\" left=%" PRId64, post->child.role,
        psd_restarts_left(&post->restarts, run->restarts, uv_now(&run->loop)));
    start_again(run, post);
}

/* A lost server may take the last rounds with it, so processes that had finished are needed again. Without rounds, each worker's
 * work counts by itself, and a finished worker is not needed again. */
static void call_back_finished(run_t *run)
{
    for (unsigned i = 0; i < n_posts(run); i++) {
        post_t *post = &run->post[i];
        bool finished =
            post->starts && !psd_child_is_here(&post->child) && !is_waiting(post) && !post->child.code && !post->child.signal;
        if (!finished || !(post->child.is_server || run->in_rounds))
            continue;
        *(post->child.is_server ? &run->n_servers_up : &run->n_workers_up) += 1;
        call_back(run, post);
    }
}

/* Whether this child finished in an earlier run of the job than the one that the restarted server 0 has begun: its last rounds are
 * lost, so it is needed again. */
static bool ended_too_early(run_t *run, const post_t *post)
{
    const post_t *first = &run->post[0];
    return run->stage == RUNNING && run->in_rounds && run->has_checkpoints && post != first && !post->child.code &&
           !post->child.signal && post->run && post->run != first->run && (psd_child_is_here(&first->child) || is_waiting(first));
}

/* Save what is needed of its results, which the next process will overwrite. */
static void forget_life(run_t *run, post_t *post)
{
    if (!post->child.is_server && !(post->begun_ts > 0))
        post->begun_ts = psd_summary_begun(run->plan.directory, post->child.index);
    post->line[0] = '\0';
}

/* Restart it, if possible; false when its end is final. */
static bool come_back(run_t *run, post_t *post)
{
    char end[450];
    if (ended_too_early(run, post)) {
        call_back(run, post);
        return true;
    }
    if (!may_come_back(run, &post->child) || !psd_restarts_use(&post->restarts, run->restarts, uv_now(&run->loop)))
        return false;
    psd_child_describe_end(&post->child, end, sizeof end);
    if (!*post->first_end)
        snprintf(post->first_end, sizeof post->first_end, "%s", end);
    post->run = 0;
    forget_life(run, post);
    say(run, "run.restart role=\"%s\" ended=\"%s\" left=%" PRId64, post->child.role, end,
        psd_restarts_left(&post->restarts, run->restarts, uv_now(&run->loop)));
    start_again(run, post);
    if (post->child.is_server)
        call_back_finished(run);
    return true;
}

/* Whether the end of a lost server is harmless, because all workers had finished and the weights are saved. If a worker that had to
 * return was refused, that is not certain. */
static bool is_late(const run_t *run, const psd_child_t *child)
{
    return run->stage == RUNNING && child->is_server && is_lost(child) && run->ready && !run->n_workers_up &&
           run->has_checkpoints && run->in_rounds && !*run->refused;
}

/* Servers that have finished in the meantime refuse a restarted worker. Whether they have finished shows when they end; until then
 * the refusal is not a failure. */
static bool may_be_too_late(const run_t *run, const psd_child_t *child)
{
    return run->stage == RUNNING && run->n_servers_up && !child->is_server && ((const post_t *)child)->starts > 1 &&
           child->code == psd_err_exit_code(PSD_EREFUSED);
}

/* Whether the remote shell found no program. */
static bool lacks_programs(const psd_child_t *child)
{
    enum { NOT_EXECUTABLE = 126, NOT_FOUND };
    return child->is_far && !((const post_t *)child)->is_met && (child->code == NOT_FOUND || child->code == NOT_EXECUTABLE);
}

static void tell_how_it_ended(run_t *run, const psd_child_t *child)
{
    char end[450], spent[768] = "";
    int code = child->signal ? psd_err_exit_code(PSD_EDIVERGED) : (int)child->code;
    psd_child_describe_end(child, end, sizeof end);
    const char *first_end = ((const post_t *)child)->first_end;
    if (may_come_back(run, child) && *first_end)
        snprintf(spent, sizeof spent, "; its %" PRId64 " restarts are used up; before the first it %s", run->restarts, first_end);
    if (lacks_programs(child)) {
        fail(run, psd_err_exit_code(PSD_ENOINPUT), "%s %s; check that psd is installed there (--remote-bin)", child->role, end);
    } else if (is_late(run, child)) {
        say(run, "run.late role=\"%s\" ended=\"%s\" effect=\"none: all workers had finished\"", child->role, end);
    } else if (is_dropped(run, child)) {
        say(run, "run.dropped role=\"%s\" ended=\"%s\" left=%u", child->role, end, run->n_workers_up - 1);
    } else if (may_be_too_late(run, child)) {
        say(run, "run.late role=\"%s\" ended=\"%s\" effect=\"none, if the servers are finished\"", child->role, end);
        snprintf(run->refused, sizeof run->refused, "%s %s", child->role, end);
    } else if (code) {
        fail(run, code, "%s %s%s", child->role, end, spent);
    } else if (child->is_server && !run->ready) {
        fail(run, psd_err_exit_code(PSD_EUNAVAILABLE), "%s ended before it was ready", child->role);
    }
}

/* Whether the user's program has ended well, and server 0's log says all that happened to it. What server 0 logs on this machine is
 * read before the end of a program that has waited for it. More starts than a burst of log lines are not all logged. */
static bool is_known_end(const run_t *run, const psd_child_t *child)
{
    unsigned starts = 0;
    for (unsigned i = run->plan.n_servers; i < n_posts(run); i++)
        starts += run->post[i].starts;
    return run->program && run->hears_joins && !run->has_stranger && !run->plan.hosts.n && starts <= PSD_LOG_BURST &&
           !child->is_server && !child->code && !child->signal;
}

static bool never_joined(const run_t *run, const psd_child_t *child)
{
    return is_known_end(run, child) && !((const post_t *)child)->has_joined;
}

/* The others may wait for a replacement until join_timeout. */
static void tell_of_unfinished(run_t *run, const psd_child_t *child)
{
    const post_t *post = (const post_t *)child;
    if (run->stage == RUNNING && run->n_servers_up && is_known_end(run, child) && post->has_joined && !post->may_end)
        say(run,
            "psdctl: the program of %s has ended before its work was done, and the others may wait for it; let it end normally, or "
            "leave the job as finished (with psd.Optimizer(...) as opt:, opt.close(finished=True), psd_worker_leave)",
            child->role);
}

/* The others may wait for it until join_timeout. */
static void tell_of_unjoined(run_t *run, const psd_child_t *child)
{
    static const char hint[] = "check that it connects (psd.Optimizer, psd.connect, psd_worker_connect) to the address in PSD_JOIN";
    if (run->stage != RUNNING || !never_joined(run, child))
        return;
    unsigned n = 0;
    for (unsigned i = run->plan.n_servers; i < n_posts(run); i++)
        n += !never_joined(run, &run->post[i].child) || psd_child_is_here(&run->post[i].child);
    if (n)
        say(run, "psdctl: the program of %s has ended without having joined the job; %s", child->role, hint);
    else
        fail(run, psd_err_exit_code(PSD_EDIVERGED), "the program of %s has ended, and none has joined the job; %s", child->role,
             hint);
}

/* When one side has ended, start the time limit for the other. */
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
    if (run->stage == RUNNING)
        count_gone(run);
    if (come_back(run, (post_t *)child))
        return;
    tell_how_it_ended(run, child);
    tell_of_unjoined(run, child);
    tell_of_unfinished(run, child);
    if (child->is_server && !child->code && !child->signal)
        run->refused[0] = '\0'; /* it was too late, as assumed */
    count_down(run, child);
    if (run->n_servers_up + run->n_workers_up)
        tend_end(run);
}

/* Print the command that pauses the job, for pasting; drain, set and the others take the same flags. */
static void say_how_to_operate(run_t *run, const post_t *post)
{
    const char *server_key = psd_options_string(run->options, PSD_OPT_server_key),
               *job = psd_options_string(run->options, PSD_OPT_job);
    char keys[PATH_MAX * 2 + 64] = "";
    if (run->plan.keyring.is_drawn)
        snprintf(keys, sizeof keys, " --key=%s/admin.key --server-public=%s/server.pub", run->plan.directory, run->plan.directory);
    else if (*server_key)
        snprintf(keys, sizeof keys, " --key=ADMIN.key --server-public=SERVER.pub");
    say(run, "operate psdctl pause --join=%s --job=%s%s", post->data, job, keys);
}

/* "psd ready shard=0/2 data=tcp://... status=http://... job=NAME run=ID"; the others wait for server 0's first. */
static void on_ready(run_t *run, post_t *post, const char *line)
{
    sscanf(line, "psd ready %*s %*s %*s %*s run=%llx", &post->run);
    if (sscanf(line, "psd ready shard=%*u/%*u data=%255s status=%255s", post->data, post->status) != 2) {
        post->data[0] = '\0';
        fail(run, psd_err_exit_code(PSD_EPROTO), "%s printed \"%.100s\"; check that it has psdctl's version", post->child.role,
             line);
        return;
    }
    if (run->ready || post->child.index != 0)
        return;
    run->ready = true;
    uv_timer_stop(&run->timer);
    say(run, post->host ? "status %s on %s" : "status %s", post->status, post->host ? post->host->target : "");
    say_how_to_operate(run, post);
    for (unsigned i = 1; i < n_posts(run) && run->stage == RUNNING; i++)
        start_first(run, i);
}

/* "psd agent VERSION": the first line of a host. */
static void on_hello(run_t *run, post_t *post, const char *version)
{
    post->is_met = true;
    if (strcmp(version, PSD_VERSION) != 0)
        fail(run, psd_err_exit_code(PSD_EPROTO), "psd on %s is version %.40s, but here it is %s: install the same on all hosts",
             post->host->target, version, PSD_VERSION);
}

/* Output of the user's program: show the first worker's unchanged; the others' goes only to their logs. */
static void show_own(run_t *run, const psd_child_t *child, const char *line)
{
    if (child == &run->post[run->plan.n_servers].child)
        say(run, "%s", line);
}

static void on_said(psd_child_t *child, bool on_stderr, const char *line)
{
    run_t *run = child->owner;
    if (on_stderr)
        show(run, child, line);
    else if (child->is_far && strncmp(line, PSD_AGENT_HELLO, sizeof PSD_AGENT_HELLO - 1) == 0)
        on_hello(run, (post_t *)child, line + sizeof PSD_AGENT_HELLO - 1);
    else if (child->is_server && strncmp(line, "psd ready ", 10) == 0)
        on_ready(run, (post_t *)child, line);
    else if (run->program)
        show_own(run, child, line);
    else if (!child->is_server && sscanf(line, "%*s run=%llx", &((post_t *)child)->run) == 1)
        snprintf(((post_t *)child)->line, sizeof((post_t *)child)->line, "%s", line);
}

static bool is_variable(const char *word) { return strncmp(word, "PSD_", 4) == 0 && strchr(word, '='); }

int psd_ctl_child(int argc, char **argv)
{
    if (argc < 3)
        return psd_err_exit_code(PSD_EUSAGE);
    char **word = argv + 2;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if ((long)getppid() != strtol(argv[1], NULL, 10))
        return psd_err_exit_code(PSD_ESTOPPED); /* the parent ended before the line above */
    setpgid(0, 0);
    for (; word[1] && is_variable(*word); word++)
        putenv(*word);
    execvp(*word, word); /* the remote shell and the user's program are looked up in PATH */
    fprintf(stderr, "cannot run %s: %s\n", *word, strerror(errno));
    return psd_err_exit_code(PSD_ENOINPUT);
}

/* -- the run ----------------------------------------------------------------------------------------------- */

/* "test" of "test_metrics", and its numbers with their names. */
static void print_metrics(const char *key, const json_t *metrics)
{
    const char *name;
    json_t *value;
    printf("  %-13.*s", (int)strcspn(key, "_"), key);
    json_object_foreach((json_t *)(uintptr_t)metrics, name, value)
    {
        if (json_is_real(value))
            printf(" %s %.6g", name, json_real_value(value));
    }
    putchar('\n');
}

static void print_value(const char *key, const json_t *value)
{
    if (json_is_string(value))
        printf("  %-13s %s\n", key, json_string_value(value));
    else if (json_is_integer(value))
        printf("  %-13s %" JSON_INTEGER_FORMAT "\n", key, json_integer_value(value));
    else if (json_is_real(value))
        printf("  %-13s %.6g\n", key, json_real_value(value));
    else if (json_is_object(value))
        print_metrics(key, value);
}

/* The host of a finished worker, if known here. */
static void print_far_summary(const run_t *run)
{
    const post_t *post = &run->post[run->plan.n_servers];
    char file[PATH_MAX];
    for (unsigned i = run->plan.n_servers; i < n_posts(run); i++)
        if (strncmp(run->post[i].line, "done ", 5) == 0 &&
            (strncmp(post->line, "done ", 5) != 0 || strstr(run->post[i].line, " rank=0")))
            post = &run->post[i];
    psd_summary_path(file, run->plan.directory, post->child.index);
    if (post->is_met)
        printf("  %-13s %s:%s%s%s\n", "summary", post->host->target, *file == '/' ? "" : run->plan.here, *file == '/' ? "" : "/",
               file);
}

/* How often a process was restarted, and how it ended the first time. */
static void print_restarts(const run_t *run)
{
    for (unsigned i = 0; i < n_posts(run); i++) {
        const post_t *post = &run->post[i];
        if (*post->first_end)
            printf("  %-13s %s, %u time%s; at first it %s\n", "restarted", post->child.role, post->starts - 1,
                   post->starts == 2 ? "" : "s", post->first_end);
    }
}

/* The most important facts: score, time, directory. */
static void print_first(const run_t *run, const json_t *summary)
{
    const char *metric = json_string_value(json_object_get(summary, "metric"));
    const json_t *last = json_object_get(summary, "last_metric"), *best = json_object_get(summary, "best_metric"),
                 *loss = json_object_get(summary, "last_loss"), *seconds = json_object_get(summary, "wall_time_s");
    if (metric && json_is_real(last) && json_is_real(best))
        printf("  %-13s %.6g (best %.6g)\n", metric, json_real_value(last), json_real_value(best));
    else if (json_is_real(loss))
        printf("  %-13s %.6g\n", "loss", json_real_value(loss));
    if (json_is_real(seconds))
        printf("  %-13s %.3f s\n", "time", json_real_value(seconds));
    if (run->plan.hosts.n && !summary)
        print_far_summary(run);
    print_restarts(run);
    printf("  %-13s %s\n", "kept in", run->plan.directory);
}

static const char *outcome_of(const run_t *run)
{
    return run->code == 0 ? "done" : run->code == psd_err_exit_code(PSD_ESTOPPED) ? "stopped early" : "failed";
}

/* Print the run's summary, without what is printed above it, and without fields for programs. */
static void print_summary(const run_t *run, const json_t *summary, int worker)
{
    static const char *const hidden[] = { "schema",       "job",
                                          "worker",       "rank",
                                          "settings",     "ended_ts",
                                          "lives",        "sha256_initial",
                                          "sha256_order", "begun_ts",
                                          "wall_time_s",  "metric",
                                          "last_metric",  "best_metric",
                                          "test_rows",    "chance_metric",
                                          "holdout_rows", "holdout_chance_metric" };
    const char *key;
    json_t *value;
    printf("%s: %s\n", psd_options_string(run->options, PSD_OPT_job), outcome_of(run));
    print_first(run, summary);
    if (worker > 0)
        printf("  %-13s %d, whose summary this is\n", "worker", worker);
    if (json_object_get(summary, "lives"))
        printf("  %-13s %" JSON_INTEGER_FORMAT ", of worker %d; what it counted is of the last\n", "lives",
               json_integer_value(json_object_get(summary, "lives")), worker);
    json_object_foreach((json_t *)(uintptr_t)summary, key, value)
    {
        bool hide = false;
        for (size_t i = 0; i < sizeof hidden / sizeof *hidden; i++)
            hide = hide || strcmp(key, hidden[i]) == 0;
        if (!hide)
            print_value(key, value);
    }
}

/* When no process writes any more, merge the workers' summaries into one. NULL: there is none. */
static json_t *settle(run_t *run, int *worker)
{
    psd_worker_end_t *end = calloc(run->plan.n_workers, sizeof *end);
    psd_err_t err = { 0 };
    *worker = -1;
    for (unsigned i = 0; end && i < run->plan.n_workers; i++) {
        const post_t *post = &run->post[run->plan.n_servers + i];
        end[i] = (psd_worker_end_t){ .outcome = psd_summary_outcome((int)post->child.code, post->child.signal),
                                     .line = post->line,
                                     .failed = run->code && !post->child.signal && post->child.code == run->code,
                                     .lives = post->starts,
                                     .begun_ts = post->begun_ts };
    }
    json_t *summary =
        end ? psd_summary_settle(run->plan.directory, run->rundir.begun_ts, end, run->plan.n_workers, worker, &err) : NULL;
    free(end);
    if (err.code) {
        say(run, "psdctl: %s", err.text);
        run->code = run->code ? run->code : psd_err_exit_code(PSD_EIO);
    }
    return summary;
}

static void ignore_close(uv_handle_t *handle) { (void)handle; }

static void man_posts(run_t *run)
{
    for (unsigned i = 0; i < n_posts(run); i++) {
        post_t *post = &run->post[i];
        psd_child_t *child = &post->child;
        child->owner = run;
        child->is_server = i < run->plan.n_servers;
        child->index = child->is_server ? i : i - run->plan.n_servers;
        child->said = on_said;
        child->gone = on_gone;
        if (run->plan.hosts.n)
            post->host = child->is_server ? psd_hosts_of_server(&run->plan.hosts, i)
                                          : psd_hosts_of_worker(&run->plan.hosts, i - run->plan.n_servers);
        snprintf(child->role, sizeof child->role, "%s %u%s%s", child->is_server ? "server" : "worker", child->index,
                 post->host ? " on " : "", post->host ? post->host->target : "");
        uv_timer_init(&run->loop, &post->again);
        post->again.data = post;
    }
}

static void on_alive(uv_timer_t *timer)
{
    run_t *run = timer->data;
    for (unsigned i = 0; i < n_posts(run); i++)
        if (run->post[i].child.is_far && psd_child_is_here(&run->post[i].child))
            psd_child_tell(&run->post[i].child, "alive\n");
}

/* Identifies the file with the name of the model; all zero: there is none. */
static struct stat look_at_model(const run_t *run)
{
    struct stat facts = { 0 };
    const char *save = psd_options_string(run->options, PSD_OPT_save);
    if (run->plan.hosts.n || !*save || stat(save, &facts) != 0)
        facts = (struct stat){ 0 };
    return facts;
}

/* Check that a successful job has saved its model: under drop, the worker that would save it may be lost. */
static void miss_model(run_t *run, const struct stat *before)
{
    const char *save = psd_options_string(run->options, PSD_OPT_save);
    const struct stat now = look_at_model(run);
    const bool is_new = now.st_ino != before->st_ino || now.st_mtim.tv_sec != before->st_mtim.tv_sec ||
                        now.st_mtim.tv_nsec != before->st_mtim.tv_nsec;
    if (run->code != 0 || run->plan.hosts.n || run->program || !*save || is_new || (now.st_mode && !S_ISREG(now.st_mode)))
        return;
    run->code = psd_err_exit_code(PSD_EIO);
    say(run, "psdctl: no worker has saved the model as %s; run the job again to get it", save);
}

/* Check this before printing the summary: output that cannot be written is a failure. */
static void end_directory(run_t *run)
{
    psd_err_t err;
    if (psd_rundir_end(&run->rundir, outcome_of(run), run->code, &err) == PSD_OK)
        return;
    say(run, "psdctl: %s", err.text);
    run->code = run->code ? run->code : psd_err_exit_code(PSD_EIO);
}

static int drive(run_t *run)
{
    uv_loop_init(&run->loop);
    uv_timer_init(&run->loop, &run->timer);
    uv_timer_init(&run->loop, &run->alive);
    uv_signal_init(&run->loop, &run->term);
    uv_signal_init(&run->loop, &run->interrupt);
    uv_signal_init(&run->loop, &run->hangup);
    run->timer.data = run->alive.data = run->term.data = run->interrupt.data = run->hangup.data = run;
    uv_signal_start(&run->term, on_signal, SIGTERM);
    uv_signal_start(&run->interrupt, on_signal, SIGINT);
    if (!psd_hangup_is_ignored())
        uv_signal_start(&run->hangup, on_signal, SIGHUP);
    const uint64_t limit_ms = psd_options_ms(run->options, PSD_OPT_join_timeout);
    if (limit_ms)
        uv_timer_start(&run->timer, on_unready, limit_ms, 0);
    if (run->plan.hosts.n) {
        signal(SIGPIPE, SIG_IGN); /* writing to a remote shell that has just ended */
        uv_timer_start(&run->alive, on_alive, PSD_AGENT_ALIVE_MS, PSD_AGENT_ALIVE_MS);
    }
    man_posts(run);
    const struct stat model = look_at_model(run);
    start_first(run, 0);
    uv_run(&run->loop, UV_RUN_DEFAULT);
    for (unsigned i = 0; i < n_posts(run); i++)
        uv_close((uv_handle_t *)&run->post[i].again, ignore_close);
    uv_close((uv_handle_t *)&run->timer, ignore_close);
    uv_close((uv_handle_t *)&run->alive, ignore_close);
    uv_close((uv_handle_t *)&run->term, ignore_close);
    uv_close((uv_handle_t *)&run->interrupt, ignore_close);
    uv_close((uv_handle_t *)&run->hangup, ignore_close);
    uv_run(&run->loop, UV_RUN_DEFAULT);
    uv_loop_close(&run->loop);
    psd_live_end(run->live, uv_hrtime() / 1000000);
    miss_model(run, &model);
    int worker;
    json_t *summary = settle(run, &worker);
    end_directory(run);
    print_summary(run, summary, worker);
    json_decref(summary);
    return run->code;
}

static int prepare(run_t *run, bool is_far, psd_err_t *err)
{
    int rc = is_far || run->program
                 ? PSD_OK
                 : psd_outputs_probe_all(run->options, PSD_PROGRAM_CTL, err); /* on other hosts, their workers check */
    rc = rc ? rc : psd_plan_make(&run->plan, run->options, is_far, err);
    rc = rc ? rc : psd_rundir_take(&run->rundir, run->plan.directory, err);
    if (rc)
        return rc;
    run->restarts = psd_options_int(run->options, PSD_OPT_restarts);
    run->has_checkpoints = *psd_options_string(run->options, PSD_OPT_checkpoint_dir);
    run->drops = strcmp(psd_options_string(run->options, PSD_OPT_workers_lost), "drop") == 0;
    psd_log_level_t level;
    run->hears_joins = psd_log_level_parse(psd_options_string(run->options, PSD_OPT_log_level), &level) && level >= PSD_LOG_INFO;
    run->in_rounds = psd_mode_has_rounds(psd_mode_find(psd_options_string(run->options, PSD_OPT_sync_mode)));
    run->post = calloc(n_posts(run), sizeof *run->post);
    if (!(run->live = psd_live_new(run->options, run->plan.n_workers, err)))
        return PSD_ENOMEM;
    return run->post ? PSD_OK : psd_err_set(err, PSD_ENOMEM, "no memory for %u children", n_posts(run));
}

/* The program after "--", which is cut off the command line; NULL: none. */
static int find_program(int *argc, char **argv, char *const **program, psd_err_t *err)
{
    int i = 1, n;
    while (i < *argc && strcmp(argv[i], PSD_COMMAND_OF_USER) != 0)
        i++;
    n = *argc - i - 1;
    *program = n > 0 ? argv + i + 1 : NULL;
    if (n < 0)
        return PSD_OK;
    *argc = i;
    argv[i] = NULL;
    if (!n)
        return psd_err_set(err, PSD_EUSAGE, "%s: give a program to run instead of psd-worker after --, such as -- python3 train.py",
                           argv[0]);
    if (n > PSD_COMMAND_OWN)
        return psd_err_set(err, PSD_EUSAGE, "%s: the program after -- has %d words; at most %d are allowed", argv[0], n,
                           PSD_COMMAND_OWN);
    return PSD_OK;
}

static int train(unsigned programs, int argc, char **argv)
{
    psd_err_t err = { 0 };
    psd_options_t *options = psd_options_new(programs);
    static run_t run;
    PSD_FAILPOINT_SPARE();
    if (!options)
        return psd_err_exit_code(PSD_ENOMEM);
    char *const *program;
    int rc = find_program(&argc, argv, &program, &err), code = 0;
    rc = rc ? rc : psd_options_load(options, argc, argv, &err);
    run = (run_t){ .options = options, .program = program, .rundir = { .lock = -1 } };
    if (rc == PSD_OK)
        rc = prepare(&run, programs & PSD_PROGRAM_LAUNCH, &err);
    else if (rc < 0 && *psd_options_complaints(options))
        snprintf(err.text, sizeof err.text, "%s", psd_options_complaints(options));
    if (rc == PSD_OK)
        code = drive(&run);
    else if (rc < 0)
        fprintf(stderr, "%s\n", err.text);
    if (rc < 0) /* it has reported the error already */
        psd_rundir_end(&run.rundir, "failed", psd_err_exit_code(rc), NULL);
    free(run.post);
    psd_live_destroy(&run.live);
    psd_plan_clear(&run.plan);
    psd_options_destroy(&options);
    return rc < 0 ? psd_err_exit_code(rc) : code;
}

int psd_ctl_run(int argc, char **argv) { return train(PSD_PROGRAM_CTL, argc, argv); }

int psd_ctl_launch(int argc, char **argv) { return train(PSD_PROGRAM_CTL | PSD_PROGRAM_LAUNCH, argc, argv); }

static int run_verb(const psd_args_t *args) { return psd_ctl_run(args->argc, args->argv); }

const psd_verb_t psd_verb_run = {
    .name = "run",
    .words = "[JOB] [-- PROGRAM...]",
    .does = "train a whole job on this machine",
    .about =
        "Starts the servers and the workers, restarts those that crash, shows progress, and prints the summary. Give a "
        "program of your own after -- to run it instead of psd-worker, once per worker: its environment holds the address to join "
        "and its worker id (PSD_JOIN, PSD_WORKER__ID, ...), and the other options of the job (PSD_DATA__BATCH, ...).",
    .options = PSD_PROGRAM_CTL,
    .is_raw = true,
    .examples = "psdctl run job.yaml\n"
                "psdctl run job.yaml --servers=2 --workers-min=3 --optimizer='adam(lr=0.05)'\n"
                "psdctl run job.yaml -- python3 train.py\n",
    .exits = "the code of the first child that failed and was not restarted; 1 when a signal killed it; 75 after SIGINT, "
             "SIGTERM or SIGHUP",
    .run = run_verb,
};

static int launch_verb(const psd_args_t *args) { return psd_ctl_launch(args->argc, args->argv); }

const psd_verb_t psd_verb_launch = {
    .name = "launch",
    .words = "[JOB] [-- PROGRAM...]",
    .does = "train a whole job on several machines, by ssh",
    .about = "Does what psdctl run does, on the machines of a hostfile: each line is HOST [servers=N] [workers=N] [address=A]. ssh "
             "must reach them without a password, and they need psd and the same working directory. "
             "Connections are encrypted with keys made for this launch, unless the job has its own.",
    .options = PSD_PROGRAM_CTL | PSD_PROGRAM_LAUNCH,
    .is_raw = true,
    .examples = "psdctl launch --hostfile=hosts job.yaml\n"
                "psdctl launch --hostfile=hosts job.yaml --remote-bin=/opt/psd/bin --checkpoint-dir=/shared/job\n",
    .exits = "69 when a host cannot be reached; otherwise as psdctl run",
    .run = launch_verb,
};
