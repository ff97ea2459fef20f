/* daemon.c - open what a server needs, watch it, turn events into actions, end. */
#include "server/daemon.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <uv.h>

#include "common/base/absence.h"
#include "common/net/clusterfile.h"
#include "common/net/rendezvous.h"
#include "common/net/route.h"
#include "common/net/uplink.h"
#include "common/optim/isa.h"
#include "common/system/failpoint.h"
#include "common/system/log.h"
#include "common/system/notify.h"
#include "server/checkpoint/store.h"
#include "server/core/node.h"
#include "server/entrance/entrance.h"
#include "server/settings.h"
#include "server/status/report.h"
#include "server/status/status.h"

enum {
    TICK_MS = 50,
    PUBLISH_MS = 250,
    LINGER_MS = 500,
    WAIT_LINE_MS = 4000, /* between two log lines about what this server waits for */
    SCRAPE_MS = 15000,   /* for Prometheus to read how the job ended */
    STOP_MS = 4000,      /* how long a server that was told to stop waits for server 0's message */
    /* Parts of up to STEP_HERE elements, and those of shards of up to SHARD_HERE, are stepped by the loop itself: a hand-over to
     * the pool and back would take longer, because an idle processor takes tens of microseconds to wake. */
    STEP_HERE = 4096,
    SHARD_HERE = 128 << 10,
    LATELY = 8 /* steps since weights were sent where a checksum goes with them: the next ones will go there too */
};

typedef struct psd_daemon {
    const psd_options_t *options;
    psd_rendezvous_t at; /* this server's place in the job */
    psd_settings_t settings;
    psd_clusterfile_t published; /* in server 0: what cluster.file says about it */
    char advertised[PSD_ENDPOINT_TEXT];
    uv_loop_t loop;
    uv_timer_t tick;
    uv_signal_t term, interrupt, save, reload;
    psd_net_t *net;
    uint64_t unproven_version; /* version of the newest weights sent over a way without a checksum of its own */
    psd_arena_t *arena;        /* memory that workers of this machine read; NULL: net.local is off */
    psd_entrance_t *entrance;  /* where workers and other servers connect */
    psd_uplink_t *uplink;      /* the connection to server 0; NULL in server 0 */
    psd_node_t *node;
    psd_actions_t out;    /* actions not yet carried out */
    bool carrying_out;    /* they are being carried out further up the stack */
    psd_store_t *store;   /* NULL: no directory for checkpoints */
    psd_status_t *status; /* NULL: not requested */
    psd_report_t *report;
    uint64_t started_ms, published_ms;
    uint64_t seen_ms;                      /* when the last tick was, for our own absence */
    uint64_t waited_ms;                    /* when it last logged that it waits for server 0 */
    uint64_t watchdog_ms, told_manager_ms; /* how often to notify the service manager; 0: there is none */
    uint64_t told_run;                     /* the run whose ready line was printed last; 0: none yet */
    uint64_t asked_to_stop_ms;             /* by a signal; 0: not yet */
    bool stopping;
    int code; /* why it ends */
    psd_err_t why;
} daemon_t;

/* From 1 s on, so that 0 means never. */
static uint64_t now_ms(void) { return uv_hrtime() / 1000000 + 1000; }

static uint64_t random_number(void)
{
    uint64_t n = 0;
    while (!n && getrandom(&n, sizeof n, 0) != sizeof n)
        ;
    return n;
}

/* The events, which opening and watching refer to, and the end, which any event may bring. */
static void on_message(void *arg, uint64_t peer, const void *header, size_t n_header, psd_buf_t *payload);
static bool on_term(void *arg, uint64_t peer, const void *header, size_t n_header, size_t n_payload, psd_term_t *out);
static void on_bad(void *arg, uint64_t peer, const char *why);
static void on_denied(void *arg, const char *why);
static void on_tick(uv_timer_t *timer);
static void on_stop_signal(uv_signal_t *handle, int number);
static void on_save_signal(uv_signal_t *handle, int number);
static void on_reload_signal(uv_signal_t *handle, int number);
static void carry_out(daemon_t *self);
static void stop(daemon_t *self, int code, const char *why);

/* ---- open ---- */

static int open_net(daemon_t *self, psd_err_t *err)
{
    const psd_options_t *o = self->options;
    const bool has_list = *psd_options_string(o, PSD_OPT_allow);
    psd_keys_t keys;
    int rc = psd_keys_load(&keys,
                           &(psd_keys_source_t){ .secret = psd_options_string(o, PSD_OPT_server_key),
                                                 .is_server = true,
                                                 .insecure = psd_options_bool(o, PSD_OPT_insecure) },
                           err);
    if (rc != PSD_OK)
        return rc;
    if (keys.insecure == has_list)
        rc = psd_err_set(err, PSD_ECONFIG,
                         keys.insecure
                             ? "--allow is given with --insecure, which accepts any process on this machine; leave one of them out"
                             : "there is a key, but no list of allowed peers: add --allow FILE");
    if (!keys.insecure || *psd_options_string(o, PSD_OPT_status_token))
        psd_keys_guard_process();
    if (rc == PSD_OK && !(self->net = psd_net_new(&keys, err)))
        rc = err->code;
    psd_keys_wipe(&keys);
    if (rc == PSD_OK)
        psd_net_use_threads(self->net, (int)psd_options_int(o, PSD_OPT_net_threads));
    return rc;
}

static int open_entrance(daemon_t *self, psd_err_t *err)
{
    const bool is_local = !strcmp(psd_options_string(self->options, PSD_OPT_net_local), "auto");
    if (is_local && !(self->arena = psd_arena_new(SIZE_MAX / 2, err)))
        return err->code;
    self->entrance = psd_entrance_new(&(psd_entrance_config_t){ .net = self->net,
                                                                .arena = self->arena,
                                                                .loop = &self->loop,
                                                                .listen = self->at.listen,
                                                                .allow = psd_options_string(self->options, PSD_OPT_allow),
                                                                .has_peers = psd_options_int(self->options, PSD_OPT_servers) > 1,
                                                                .memory_max = psd_options_uint(self->options, PSD_OPT_memory_max),
                                                                .on_message = on_message,
                                                                .on_term = on_term,
                                                                .on_bad = on_bad,
                                                                .arg = self },
                                      err);
    return self->entrance ? PSD_OK : err->code;
}

/* If server 0 was replaced, this server joins as a new one, with a HELLO. */
static void on_moved(void *arg) { (void)arg; }

static bool on_waiting(void *arg, const char *reason)
{
    (void)arg;
    if (reason)
        psd_log_info("join.waiting", "for=\"%s\"", reason);
    return true;
}

static void log_uplink(void *arg, psd_log_level_t level, const char *id, const char *line)
{
    (void)arg, psd_log_write(level, id, "%s", line);
}

/* The other servers look for server 0. */
static int find_first(daemon_t *self, psd_err_t *err)
{
    if (self->at.is_first)
        return PSD_OK;
    self->uplink = psd_uplink_new(&(psd_uplink_config_t){ .net = self->net,
                                                          .job = psd_options_string(self->options, PSD_OPT_job),
                                                          .join = self->at.join,
                                                          .file = self->at.file,
                                                          .timeout_ms = psd_options_ms(self->options, PSD_OPT_join_timeout),
                                                          .peer = PSD_PEER_COORDINATOR,
                                                          .on_message = on_message,
                                                          .on_bad = on_bad,
                                                          .on_denied = on_denied,
                                                          .on_moved = on_moved,
                                                          .on_waiting = on_waiting,
                                                          .log = log_uplink,
                                                          .arg = self },
                                  err);
    return self->uplink ? PSD_OK : err->code;
}

static void store_done(void *arg) { carry_out(arg); }

/* Prepare to write and read checkpoints; server 0 also looks for existing ones. */
static int open_store(daemon_t *self, psd_store_points_t *points, psd_err_t *err)
{
    const psd_settings_t *s = &self->settings;
    if (!*s->checkpoint_dir)
        return PSD_OK;
    psd_store_config_t config = { .loop = &self->loop,
                                  .dir = s->checkpoint_dir,
                                  .job = s->engine.job,
                                  .settings = s->job.text,
                                  .groups = s->engine.groups,
                                  .keep = s->checkpoint_keep,
                                  .sole = s->is_first,
                                  .done = store_done,
                                  .arg = self };
    self->store = psd_store_new(&config, err);
    if (self->store && s->is_first)
        return psd_store_find(s->checkpoint_dir, s->engine.job, s->job.text, points, err);
    return self->store ? PSD_OK : err->code;
}

/* Log each applied contribution, so that a reader can compare the shards. */
static void log_applied(void *arg, uint32_t shard, uint64_t clock, uint32_t worker, uint64_t incarnation)
{
    const daemon_t *self = arg;
    psd_log_debug("push.applied", "shard=%u clock=%" PRIu64 " worker=%u incarnation=%" PRIu64 " run=%" PRIx64, shard, clock, worker,
                  incarnation, psd_engine_run(psd_node_engine(self->node)));
}

static psd_buf_t *new_shared(void *arena, size_t n_bytes) { return psd_arena_new_buf(arena, n_bytes); }

static int make_node(daemon_t *self, psd_err_t *err)
{
    psd_settings_t *s = &self->settings;
    psd_store_points_t points = { 0 };
    if (psd_settings_read(s, self->options, &self->at, err) != PSD_OK || open_store(self, &points, err) != PSD_OK)
        return err->code;
    s->engine.endpoint = self->advertised;
    s->engine.new_weights = self->arena ? new_shared : NULL;
    s->engine.new_weights_arg = self->arena;
    s->engine.nonce = random_number() & ~UINT64_C(0xffff);
    s->engine.first = self->uplink ? psd_uplink_address(self->uplink) : NULL;
    s->coordinator.job_id = random_number();
    s->coordinator.checkpoints = self->store != NULL;
    s->coordinator.points = points.clock;
    s->coordinator.n_points = points.n;
    s->coordinator.model = points.n ? &points.model : NULL;
    if (points.n)
        s->coordinator.lr = points.lr;
    self->node = psd_node_new(&s->engine, s->is_first ? &s->coordinator : NULL, err);
    psd_tensors_clear(&points.model);
    if (self->node && !strcmp(psd_options_string(self->options, PSD_OPT_log_level), "debug"))
        psd_engine_set_ledger(psd_node_engine(self->node), log_applied, self);
    self->report = self->node ? psd_report_new(self->options, s->job.text, err) : NULL;
    return self->report ? PSD_OK : err->code;
}

static int connect_to_first(daemon_t *self, psd_err_t *err)
{
    self->waited_ms = now_ms();
    return self->uplink ? psd_uplink_connect(self->uplink, &self->loop, err) : PSD_OK;
}

static int open_status(daemon_t *self, psd_err_t *err)
{
    if (!strcmp(self->at.status, "none"))
        return PSD_OK;
    self->status = psd_status_new(self->at.status, psd_options_string(self->options, PSD_OPT_status_token), err);
    return self->status ? PSD_OK : err->code;
}

/* For processes that find server 0 by the file. */
static int write_file(daemon_t *self, psd_err_t *err)
{
    psd_clusterfile_t *file = &self->published;
    if (!self->at.is_first || !*self->at.file)
        return PSD_OK;
    snprintf(file->job, sizeof file->job, "%s", psd_options_string(self->options, PSD_OPT_job));
    snprintf(file->data, sizeof file->data, "%s", self->advertised);
    snprintf(file->status, sizeof file->status, "%s", self->status ? psd_status_url(self->status) : "none");
    snprintf(file->server_public, sizeof file->server_public, "%s", psd_net_public(self->net));
    file->run = random_number();
    return psd_clusterfile_write(file, self->at.file, err);
}

static int advertise(daemon_t *self, psd_err_t *err)
{
    return psd_route_advertise(self->advertised, psd_entrance_endpoint(self->entrance), self->at.advertise,
                               self->uplink ? psd_uplink_address(self->uplink) : "", err);
}

static int open_all(daemon_t *self, psd_err_t *err)
{
    static int (*const steps[])(daemon_t *, psd_err_t *) = { open_net,  open_entrance,    find_first,  advertise,
                                                             make_node, connect_to_first, open_status, write_file };
    int rc = psd_rendezvous_find_own(&self->at, PSD_PROGRAM_SERVER, self->options, err);
    for (size_t i = 0; rc == PSD_OK && i < sizeof steps / sizeof *steps; i++)
        rc = steps[i](self, err);
    return rc;
}

/* In asp, W workers push W steps in the time of one, which moves the weights W times as far. Log how psd scales the learning rate
 * for that, unless the user has chosen a rule. Once per job, by server 0. */
static void warn_of_lr_rule(const daemon_t *self)
{
    if (self->settings.is_first && self->settings.unasked_lr_rule)
        psd_log_warn("asp.lr_rule",
                     "lr_rule=%s effect=\"each push is a step, and its learning rate is that of the optimizer "
                     "divided by the number of workers; set sync.lr_rule to choose\"",
                     self->settings.engine.lr_rule->name);
}

/* ---- watch ---- */

static void watch(daemon_t *self)
{
    self->tick.data = self->term.data = self->interrupt.data = self->save.data = self->reload.data = self;
    uv_timer_init(&self->loop, &self->tick);
    uv_signal_init(&self->loop, &self->term);
    uv_signal_init(&self->loop, &self->interrupt);
    uv_signal_init(&self->loop, &self->save);
    uv_signal_init(&self->loop, &self->reload);
    uv_timer_start(&self->tick, on_tick, 0, TICK_MS);
    uv_signal_start(&self->term, on_stop_signal, SIGTERM);
    uv_signal_start(&self->interrupt, on_stop_signal, SIGINT);
    uv_signal_start(&self->save, on_save_signal, SIGUSR1);
    uv_signal_start(&self->reload, on_reload_signal, SIGHUP);
}

static void end_watch(daemon_t *self)
{
    uv_close((uv_handle_t *)&self->tick, NULL);
    uv_close((uv_handle_t *)&self->term, NULL);
    uv_close((uv_handle_t *)&self->interrupt, NULL);
    uv_close((uv_handle_t *)&self->save, NULL);
    uv_close((uv_handle_t *)&self->reload, NULL);
    uv_stop(&self->loop);
}

/* ---- events: messages ---- */

/* Whether this user may send this message; if not, the sender gets a REFUSED with the reason. Server 0 needs no check here: its
 * connection has proved its key. */
static bool may_send(daemon_t *self, uint64_t peer, const psd_msg_t *msg)
{
    char why[256];
    if (peer == PSD_PEER_COORDINATOR)
        return true;
    const uint32_t shard = psd_engine_index(psd_node_engine(self->node));
    const psd_refusal_t reason = psd_entrance_judge(self->entrance, peer, msg->kind, shard, why, sizeof why);
    if (reason != PSD_REFUSAL_NONE)
        psd_node_refuse(self->node, peer, msg->seq, reason, why, &self->out);
    return reason == PSD_REFUSAL_NONE;
}

/* End, unless this server found the address of server 0 in a file: the file may be stale, and the job's server 0 may be about to
 * rewrite it. */
static void give_up_or_doubt(daemon_t *self, int code, const char *why)
{
    const bool refused = (code == PSD_EREFUSED || code == PSD_EAUTH) && !psd_engine_is_ready(psd_node_engine(self->node));
    if (!refused || !self->uplink || !psd_uplink_doubts(self->uplink, now_ms(), code, why))
        stop(self, code, why);
}

static void on_denied(void *arg, const char *why) { give_up_or_doubt(arg, PSD_EAUTH, why); }

/* Print the line that launchers wait for, once for each run of the job that this server takes part in. */
static void tell_ready(daemon_t *self)
{
    const psd_engine_t *engine = psd_node_engine(self->node);
    if (!psd_entrance_is_open(self->entrance) || !psd_engine_is_ready(engine) || self->told_run == psd_engine_run(engine))
        return;
    const bool first = !self->told_run;
    self->told_run = psd_engine_run(engine);
    printf("psd ready shard=%u/%" PRId64 " data=%s status=%s job=%s run=%016" PRIx64 "\n", psd_engine_index(engine),
           psd_options_int(self->options, PSD_OPT_servers), self->advertised, self->status ? psd_status_url(self->status) : "none",
           psd_options_string(self->options, PSD_OPT_job), self->told_run);
    if (fflush(stdout) && errno != EPIPE && first) /* a reader of only the first line has closed the pipe by now */
        stop(self, PSD_EIO, "the ready line cannot be written to standard output");
    psd_notify("READY=1");
}

/* From the entrance and from server 0; answers of server 0, too, are accepted only once the entrance accepts messages. */
static void on_message(void *arg, uint64_t peer, const void *header, size_t n_header, psd_buf_t *payload)
{
    daemon_t *self = arg;
    psd_msg_t msg;
    psd_err_t err;
    size_t n = payload ? payload->n_bytes : 0;
    if (!psd_entrance_is_open(self->entrance))
        return;
    psd_report_received(self->report, n_header + n);
    psd_buf_t *body;
    const int rc = psd_wire_read(&msg, &body, header, n_header, payload, &err);
    if (rc == PSD_EDATA) { /* as good as lost: the waiting peer asks again */
        psd_engine_count_refusal(psd_node_engine(self->node), PSD_REFUSAL_CHECKSUM);
    } else if (rc != PSD_OK && peer == PSD_PEER_COORDINATOR && msg.protocol && msg.protocol != PSD_PROTOCOL) {
        char why[200];
        snprintf(why, sizeof why, "server 0 at %.100s uses protocol %u, this server %d; install the same version on both",
                 psd_uplink_address(self->uplink), msg.protocol, PSD_PROTOCOL);
        give_up_or_doubt(self, PSD_EREFUSED, why);
    } else if (rc != PSD_OK) {
        psd_node_malformed(self->node, peer, msg.protocol, err.text, &self->out);
    } else {
        PSD_FAILPOINT("srv.recv", psd_kind_name(msg.kind));
        if (may_send(self, peer, &msg))
            psd_node_message(self->node, now_ms(), peer, &msg, body, &self->out);
        psd_report_saw(self->report, self->node, &msg, uv_hrtime());
    }
    psd_buf_unref(&body);
    carry_out(self);
    tell_ready(self);
}

/* The place of a gradient in the mean that its round is expected to be, before it is taken out of its sender's memory. */
static bool on_term(void *arg, uint64_t peer, const void *header, size_t n_header, size_t n_payload, psd_term_t *out)
{
    const daemon_t *self = arg;
    psd_msg_t msg;
    psd_err_t err;
    return n_header > PSD_SEAL && psd_msg_decode(&msg, header, n_header - PSD_SEAL, n_payload, &err) == PSD_OK &&
           psd_engine_term(psd_node_engine(self->node), peer, &msg, out);
}

static void on_bad(void *arg, uint64_t peer, const char *why)
{
    daemon_t *self = arg;
    if (!psd_entrance_is_open(self->entrance))
        return;
    psd_node_malformed(self->node, peer, 0, why, &self->out);
    carry_out(self);
}

/* ---- events: what the node wants done ---- */

typedef struct pool_job {
    uv_work_t request;
    daemon_t *daemon;
    psd_work_t *work;
    uint64_t ns;
} pool_job_t;

/* The nanoseconds that it took. */
static uint64_t run_work(psd_work_t *work)
{
    PSD_FAILPOINT("srv.step", NULL);
    uint64_t start = uv_hrtime();
    psd_work_run(work);
    uint64_t ns = uv_hrtime() - start;
    PSD_FAILPOINT("srv.stepped", NULL);
    return ns;
}

static void run_in_pool(uv_work_t *request)
{
    pool_job_t *job = request->data;
    job->ns = run_work(job->work);
}

static void work_done(daemon_t *self, psd_work_t *work, uint64_t ns)
{
    psd_report_apply(self->report, ns);
    psd_node_worked(self->node, now_ms(), work, &self->out);
    psd_report_saw(self->report, self->node, NULL, uv_hrtime());
}

static void pool_done(uv_work_t *request, int status)
{
    (void)status;
    pool_job_t *job = request->data;
    work_done(job->daemon, job->work, job->ns);
    carry_out(job->daemon);
    free(job);
}

/* Whether weights were lately sent unprotected, that is, unencrypted and not through memory: then the step sums them. Weights
 * that it has not summed are summed when they are sent. */
static bool sums_weights(const daemon_t *self)
{
    return self->unproven_version + LATELY >= psd_engine_version(psd_node_engine(self->node));
}

static void start_work(daemon_t *self, psd_work_t *work)
{
    const uint64_t elements = psd_shard_elements(work->shard, work->part);
    work->sums = sums_weights(self);
    if (elements <= STEP_HERE || elements * psd_shard_parts(work->shard) <= SHARD_HERE) {
        work_done(self, work, run_work(work));
        return;
    }
    pool_job_t *job = malloc(sizeof *job);
    assert(job && "no memory to hand work to the pool");
    *job = (pool_job_t){ .request.data = job, .daemon = self, .work = work };
    uv_queue_work(&self->loop, &job->request, run_in_pool, pool_done);
}

/* Offer shared memory to a worker that has attached; it accepts if it runs on this machine. */
static void offer_memory(daemon_t *self, const psd_action_t *attached)
{
    psd_msg_t msg = { .kind = PSD_MSG_OFFER, .protocol = PSD_PROTOCOL, .job = attached->msg.job, .shard = attached->msg.shard };
    uint8_t header[PSD_MAX_FRAME_HEADER];
    psd_offer_t offer;
    psd_buf_t *bytes;
    if (!psd_entrance_offer(self->entrance, attached->to, &offer))
        return;
    psd_buf_t *body = psd_body_of_offer(&offer);
    const size_t n_header = psd_wire_write(&msg, body, psd_net_is_keyed(self->net), header, &bytes);
    psd_entrance_send(self->entrance, attached->to, false, header, n_header, bytes);
    psd_buf_unref(&bytes);
    psd_buf_unref(&body);
}

/* What cannot be sent now counts as lost: peers probe for it. */
static void send_message(daemon_t *self, const psd_action_t *a)
{
    uint8_t header[PSD_MAX_FRAME_HEADER];
    psd_buf_t *bytes;
    const bool is_up = a->to == PSD_PEER_COORDINATOR;
    if (is_up && !self->uplink)
        return;
    PSD_FAILPOINT("srv.send", psd_kind_name(a->msg.kind));
    const bool is_data = psd_kind_is_data(a->msg.kind);
    const bool proven = psd_net_is_keyed(self->net) || (!is_up && psd_entrance_has_link(self->entrance, a->to, is_data));
    const size_t n_header = psd_wire_write(&a->msg, a->payload, proven, header, &bytes);
    if (a->msg.kind == PSD_MSG_WEIGHTS && !proven)
        self->unproven_version = a->msg.version;
    const int rc = is_up ? psd_uplink_send(self->uplink, header, n_header, bytes)
                         : psd_entrance_send(self->entrance, a->to, is_data, header, n_header, bytes);
    PSD_FAILPOINT("srv.sent", psd_kind_name(a->msg.kind));
    psd_report_sent(self->report, &a->msg, bytes ? bytes->n_bytes : 0, rc == PSD_OK, uv_hrtime());
    psd_buf_unref(&bytes);
    if (a->msg.kind == PSD_MSG_ATTACHED && a->msg.seq) /* an answer, not a heartbeat */
        offer_memory(self, a);
}

static void log_line(daemon_t *self, const psd_action_t *a)
{
    static const psd_log_level_t levels[] = { [PSD_LEVEL_ERROR] = PSD_LOG_ERROR,
                                              [PSD_LEVEL_WARN] = PSD_LOG_WARN,
                                              [PSD_LEVEL_INFO] = PSD_LOG_INFO,
                                              [PSD_LEVEL_DEBUG] = PSD_LOG_DEBUG };
    const bool said = psd_log_write(levels[a->level], a->id, "%s", a->msg.text);
    if (said && self->status && levels[a->level] < PSD_LOG_DEBUG)
        psd_status_note(self->status, psd_log_level_name(levels[a->level]), a->id, a->msg.text);
}

/* Carry out the actions in order. Work that is done at once may append to the list, and this loop then carries that out too. */
static void carry_out(daemon_t *self)
{
    if (self->carrying_out)
        return;
    self->carrying_out = true;
    for (size_t i = 0; i < self->out.n; i++) {
        psd_action_t *a = &self->out.at[i];
        switch (a->act) {
        case PSD_ACT_SEND:
            send_message(self, a);
            break;
        case PSD_ACT_WORK:
            start_work(self, a->work);
            break;
        case PSD_ACT_LOG:
            log_line(self, a);
            break;
        case PSD_ACT_FINISH:
            give_up_or_doubt(self, a->level, a->msg.text);
            break;
        default:
            psd_store_carry_out(self->store, self->node, a, &self->out);
            break;
        }
    }
    psd_actions_drop(&self->out, self->out.n);
    self->carrying_out = false;
}

/* ---- events: time passes ---- */

/* If this process was suspended, that time does not count. */
static void excuse_absence(daemon_t *self, uint64_t now)
{
    const uint64_t away_ms = psd_absence(&self->seen_ms, now);
    if (!away_ms)
        return;
    self->started_ms += psd_engine_is_ready(psd_node_engine(self->node)) ? 0 : away_ms;
    if (self->asked_to_stop_ms)
        self->asked_to_stop_ms += away_ms;
}

static void tend_uplink(daemon_t *self, uint64_t now)
{
    psd_err_t err;
    if (!self->uplink)
        return;
    if (psd_uplink_tick(self->uplink, now, true, &err) != PSD_OK)
        stop(self, err.code, err.text);
    const psd_err_t *refusal = psd_uplink_refusal(self->uplink, now);
    if (refusal)
        stop(self, refusal->code, refusal->text);
}

static void tend_entrance(daemon_t *self, uint64_t now)
{
    psd_err_t err;
    if (psd_entrance_tick(self->entrance, now, &err) != PSD_OK)
        stop(self, err.code, err.text);
}

/* Until this server has joined, it logs every few seconds what it waits for; after join_timeout it ends. */
static void tend_joining(daemon_t *self, uint64_t now)
{
    const uint64_t limit = psd_options_ms(self->options, PSD_OPT_join_timeout);
    const psd_engine_t *engine = psd_node_engine(self->node);
    char why[PSD_MAX_TEXT];
    if (psd_engine_is_ready(engine) || !self->uplink)
        return;
    const char *trouble = psd_uplink_trouble(self->uplink, now), *address = psd_uplink_address(self->uplink);
    const char *text = *trouble ? trouble : psd_engine_told(engine);
    if (psd_engine_was_ready(engine))
        return; /* it had joined before: the engine logs what it waits for, and how long */
    const bool is_late = limit && now >= self->started_ms + limit;
    if (now > self->waited_ms + WAIT_LINE_MS && !is_late) {
        self->waited_ms = now;
        psd_log_info("join.waiting", "for=\"server 0 at %s\" trouble=\"%s\"", address, text);
    }
    if (!is_late)
        return;
    snprintf(why, sizeof why, "server 0 at %s %s within %" PRIu64 " ms: %s", address,
             *psd_engine_told(engine) ? "has no place for this server" : "did not answer", limit,
             *text ? text : "is it running, with this address?");
    stop(self, psd_uplink_is_unresolved(self->uplink) ? PSD_ECONFIG : PSD_EUNAVAILABLE, why);
}

static void stop_when_nobody_says_so(daemon_t *self, uint64_t now)
{
    if (self->asked_to_stop_ms && now > self->asked_to_stop_ms + STOP_MS && !psd_node_coordinator(self->node))
        stop(self, PSD_ESTOPPED, "asked to stop, but server 0 has not confirmed the last checkpoint");
}

/* Tell the service manager that the loop is running; a manager that gets no message in time restarts the process. */
static void tell_manager(daemon_t *self, uint64_t now)
{
    const psd_engine_stats_t *stats = psd_engine_stats(psd_node_engine(self->node));
    char text[96];
    if (!self->watchdog_ms || now < self->told_manager_ms + self->watchdog_ms)
        return;
    self->told_manager_ms = now;
    snprintf(text, sizeof text, "WATCHDOG=1\nSTATUS=step %" PRIu64 ", loss %.4g", stats->steps, stats->loss);
    psd_notify(text);
}

static void publish(daemon_t *self)
{
    self->published_ms = now_ms();
    psd_report_stored(self->report, psd_store_bytes(self->store));
    psd_report_connections_refused(self->report, psd_entrance_refused(self->entrance, self->published_ms));
    psd_report_memory_links(self->report, psd_entrance_links(self->entrance));
    if (self->status)
        psd_report_publish(self->report, self->node, self->published_ms, self->status);
}

static void on_tick(uv_timer_t *timer)
{
    daemon_t *self = timer->data;
    const uint64_t now = now_ms();
    excuse_absence(self, now);
    tend_uplink(self, now);
    tend_entrance(self, now);
    psd_node_tick(self->node, now, &self->out);
    psd_report_saw(self->report, self->node, NULL, uv_hrtime());
    carry_out(self);
    tell_ready(self);
    tend_joining(self, now);
    stop_when_nobody_says_so(self, now);
    tell_manager(self, now);
    if (now >= self->published_ms + PUBLISH_MS)
        publish(self);
}

/* ---- events: signals ---- */

/* The first signal ends the job in good order: server 0 makes a last checkpoint and tells the other servers, which wait for that
 * message for up to STOP_MS. A second signal ends this process at once, as does the first one if there are no checkpoints or the
 * server is in no run. */
static void on_stop_signal(uv_signal_t *handle, int number)
{
    daemon_t *self = handle->data;
    char why[64];
    snprintf(why, sizeof why, "%s before the job was finished", number == SIGTERM ? "SIGTERM" : "SIGINT");
    if (!self->store || self->asked_to_stop_ms || !psd_engine_is_ready(psd_node_engine(self->node))) {
        stop(self, PSD_ESTOPPED, why);
        return;
    }
    self->asked_to_stop_ms = now_ms();
    psd_node_stop(self->node, now_ms(), &self->out);
    carry_out(self);
}

static void on_save_signal(uv_signal_t *handle, int number)
{
    (void)number;
    daemon_t *self = handle->data;
    if (!self->store || !psd_node_request_save(self->node))
        psd_log_warn("checkpoint.unasked", "SIGUSR1 is for server 0 of a job with checkpoint.dir");
}

static void on_reload_signal(uv_signal_t *handle, int number)
{
    (void)number;
    daemon_t *self = handle->data;
    psd_entrance_reload(self->entrance);
}

/* ---- end ---- */

static void stop(daemon_t *self, int code, const char *why)
{
    if (self->stopping)
        return;
    self->stopping = true;
    const char *hopeless = psd_engine_hopeless(psd_node_engine(self->node));
    code = hopeless ? PSD_EDIVERGED : code;
    self->code = psd_err_set(&self->why, code, "%s", hopeless ? hopeless : why);
    psd_notify("STOPPING=1");
    psd_report_end(self->report, code);
    publish(self); /* the outcome, for clients that follow the events */
    end_watch(self);
}

static volatile sig_atomic_t hurried;

static void hurry(int number) { (void)number, hurried = 1; }

/* To Prometheus, a target that disappears after success looks like one that has crashed. If it has scraped this server before, give
 * it time to read how the job ended. A signal ends the wait. */
static void await_last_scrape(const daemon_t *self)
{
    const uint64_t begun_ms = now_ms(), before = self->status ? psd_status_scrapes(self->status) : 0;
    const bool good = self->stopping && (self->code == PSD_OK || self->code == PSD_ESTOPPED);
    if (!before || !good)
        return;
    signal(SIGTERM, hurry);
    signal(SIGINT, hurry);
    while (!hurried && psd_status_scrapes(self->status) == before && now_ms() < begun_ms + SCRAPE_MS)
        uv_sleep(TICK_MS);
    uv_sleep(hurried ? 0 : TICK_MS); /* so that the answer is sent */
}

static void close_all(daemon_t *self)
{
    if (self->published.run) /* no process should connect here any more */
        psd_clusterfile_remove(&self->published, self->at.file);
    psd_entrance_close(&self->entrance, LINGER_MS);
    psd_uplink_close(&self->uplink, LINGER_MS);
    uv_run(&self->loop, UV_RUN_DEFAULT); /* handles close; work in the pool comes back */
    await_last_scrape(self);
    psd_status_destroy(&self->status);
    psd_net_destroy(&self->net);
    psd_store_destroy(&self->store);
    psd_actions_clear(&self->out);
    psd_node_destroy(&self->node);
    psd_report_destroy(&self->report);
    psd_arena_destroy(&self->arena);
    int rc = uv_loop_close(&self->loop);
    assert(!rc && "every handle of the loop is closed");
}

static int log_exit(const daemon_t *self, psd_err_t *err)
{
    uint64_t received_bytes, sent_bytes;
    psd_report_traffic(self->report, &received_bytes, &sent_bytes);
    const int rc = psd_err_set(err, self->code, "%s", self->why.text);
    psd_log_write(rc == PSD_OK || rc == PSD_ESTOPPED ? PSD_LOG_INFO : PSD_LOG_ERROR, "server.exit",
                  "code=%d reason=\"%s\" received_bytes=%" PRIu64 " sent_bytes=%" PRIu64, psd_err_exit_code(rc), self->why.text,
                  received_bytes, sent_bytes);
    return rc;
}

int psd_daemon_run(const psd_options_t *options, psd_err_t *err)
{
    daemon_t self = { .options = options, .started_ms = now_ms(), .watchdog_ms = psd_notify_watchdog_ms() };
    if (uv_loop_init(&self.loop))
        return psd_err_set(err, PSD_ESYSTEM, "libuv cannot start a loop");
    signal(SIGPIPE, SIG_IGN);
    int rc = open_all(&self, err);
    if (rc == PSD_OK) {
        psd_log_info("server.start", "version=" PSD_VERSION " listen=%s kernels=%s settings=\"%s\"",
                     psd_entrance_endpoint(self.entrance), psd_isa_name(), self.settings.job.text);
        warn_of_lr_rule(&self);
        watch(&self);
        uv_run(&self.loop, UV_RUN_DEFAULT);
        rc = log_exit(&self, err);
    }
    close_all(&self);
    return rc;
}
