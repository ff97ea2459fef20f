/* coordinator_peers.c - what workers and shards say to the coordinator, and who may say it. */
#include "common/base/logtext.h"
#include "server/core/coordinator_state.h"

enum { MAX_LR = 1000000000 };

/* ---- workers ---- */

psd_msg_t *psd_coord_answer(psd_coordinator_t *self, psd_peer_t to, psd_kind_t kind, const psd_worker_row_t *row,
                            psd_buf_t *payload, psd_actions_t *out)
{
    psd_msg_t *msg = psd_actions_send(out, to, kind, payload);
    msg->job = self->config.job_id;
    msg->view_id = self->view_id;
    msg->clock = self->clock;
    if (row) {
        msg->worker = row->id;
        msg->incarnation = row->incarnation;
        msg->seq = row->nonce;
    }
    return msg;
}

static void refuse(psd_coordinator_t *self, psd_peer_t to, uint64_t nonce, psd_refusal_t reason, psd_actions_t *out,
                   const char *format, ...) __attribute__((format(printf, 6, 7)));

static void refuse(psd_coordinator_t *self, psd_peer_t to, uint64_t nonce, psd_refusal_t reason, psd_actions_t *out,
                   const char *format, ...)
{
    psd_msg_t *msg = psd_coord_answer(self, to, PSD_MSG_REFUSED, NULL, NULL, out);
    self->report.rejected[reason]++;
    msg->seq = nonce;
    msg->code = reason;
    va_list args;
    va_start(args, format);
    vsnprintf(msg->text, sizeof msg->text, format, args);
    va_end(args);
    psd_actions_log(out, PSD_LEVEL_WARN, "peer.refused", "reason=%s text=\"%.300s\"", psd_refusal_name(reason),
                    out->at[out->n - 1].msg.text);
}

static void tell_to_wait(psd_coordinator_t *self, psd_peer_t to, uint64_t nonce, const char *why, psd_actions_t *out)
{
    psd_msg_t *wait = psd_coord_answer(self, to, PSD_MSG_WAIT, NULL, NULL, out);
    wait->seq = nonce;
    snprintf(wait->text, sizeof wait->text, "%s", why);
}

static void welcome(psd_coordinator_t *self, const psd_worker_row_t *row, psd_actions_t *out)
{
    psd_cluster_t *cluster = calloc(1, sizeof *cluster);
    uint8_t *bytes = malloc(PSD_MAX_LIST);
    assert(cluster && bytes && "no memory for a welcome");
    cluster->n_servers = self->config.n_servers;
    cluster->per_push = !psd_mode_has_rounds(self->config.mode);
    cluster->lease_ms = (uint32_t)self->config.lease_ms;
    cluster->has_slow = self->config.has_slow;
    snprintf(cluster->settings, sizeof cluster->settings, "%s", self->settings);
    for (uint32_t s = 0; s < self->config.n_servers; s++)
        memcpy(cluster->endpoint[s], self->servers.row[s].endpoint, sizeof cluster->endpoint[s]);
    psd_buf_t *payload = psd_payload_copy(bytes, psd_cluster_encode(cluster, bytes, PSD_MAX_LIST));
    psd_coord_answer(self, row->peer, PSD_MSG_WELCOME, row, payload, out);
    psd_buf_unref(&payload);
    free(cluster);
    free(bytes);
}

/* Whether every place of a fixed number is taken, or was until its work was done. */
static bool is_full(const psd_coordinator_t *self)
{
    uint32_t taken = 0;
    for (uint32_t i = 0; i < self->members.n_rows; i++)
        taken += psd_worker_is_here(&self->members.row[i]) || self->members.row[i].finished;
    return psd_coord_is_fixed(self) && taken >= self->config.workers_want;
}

/* A row for a new worker called `name`; NULL, and in `why` what it has to wait for, when there is none yet. */
static psd_worker_row_t *find_place(psd_coordinator_t *self, uint64_t now_ms, const psd_msg_t *hello, uint32_t user,
                                    const char *name, char *why, size_t n)
{
    if (!psd_servers_all_joined(&self->servers)) {
        char missing[256] = "";
        psd_servers_list_missing(&self->servers, missing, sizeof missing);
        snprintf(why, n, "waiting for servers: missing %s of %u", missing, self->config.n_servers);
        return NULL;
    }
    if (is_full(self)) {
        snprintf(why, n, "all %u places are taken; a worker that is lost frees its own", self->config.workers_want);
        return NULL;
    }
    psd_worker_row_t *row = psd_membership_admit(&self->members, hello->code, user);
    if (row)
        return row;
    const psd_worker_row_t *held = hello->code && hello->code <= PSD_MAX_WORKERS ? &self->members.row[hello->code - 1] : NULL;
    if (held)
        snprintf(why, n, "worker %u is %s, last heard %" PRIu64 " ms ago; you are %.120s", hello->code - 1, held->name,
                 now_ms - held->heard_ms, name);
    else
        snprintf(why, n, "all %u worker ids are in use", PSD_MAX_WORKERS);
    return NULL;
}

/* Whether a hello whose text begins with this name of a job is for this one; else it is refused. */
static bool is_of_this_job(psd_coordinator_t *self, psd_peer_t from, const psd_msg_t *msg, size_t n, psd_actions_t *out)
{
    const bool is = n == strlen(self->job) && !strncmp(msg->text, self->job, n);
    if (!is)
        refuse(self, from, msg->seq, PSD_REFUSAL_JOB, out, "this is job %s, you are of job %.*s", self->job, (int)n, msg->text);
    return is;
}

/* Tell who speaks as this life of a worker that it is one no more. */
static psd_msg_t *tell_fenced(psd_coordinator_t *self, psd_peer_t to, const psd_worker_row_t *row, uint64_t incarnation,
                              psd_actions_t *out)
{
    psd_msg_t *fenced = psd_coord_answer(self, to, PSD_MSG_FENCED, row, NULL, out);
    const int n = snprintf(fenced->text, sizeof fenced->text, "worker %u incarnation %" PRIu64, fenced->worker, incarnation);
    char *rest = fenced->text + n;
    const size_t left = sizeof fenced->text - (size_t)n;
    if (row->incarnation > incarnation)
        snprintf(rest, left, " was replaced by incarnation %" PRIu64, row->incarnation);
    else if (row->state == PSD_WORKER_LOST)
        snprintf(rest, left,
                 " was given up: nothing was heard of it for longer than the lease, or its push came later than round_timeout");
    else if (row->state == PSD_WORKER_LEFT)
        snprintf(rest, left, " has left");
    else
        snprintf(rest, left, " is not you: the number that it drew at its start is another");
    return fenced;
}

/* The text of a HELLO is "job name-of-worker". */
static void on_hello(psd_coordinator_t *self, uint64_t now_ms, psd_peer_t from, const psd_msg_t *msg, psd_actions_t *out)
{
    size_t n = strcspn(msg->text, " ");
    if (!is_of_this_job(self, from, msg, n, out))
        return;
    const char *name = msg->text + n + (msg->text[n] == ' ');
    if (!psd_logtext_is_plain(name, strlen(name)) || strlen(name) >= PSD_MAX_NAME) {
        refuse(self, from, msg->seq, PSD_REFUSAL_CONFIG, out,
               "\"%.80s\" cannot be a worker's name: it is one word of at most "
               "%d bytes, without quotes, = or backslash",
               name, PSD_MAX_NAME - 1);
        return;
    }
    const uint32_t user = psd_peer_user(from);
    psd_worker_row_t *row = psd_membership_by_nonce(&self->members, msg->seq);
    const psd_worker_row_t *wanted = row                                         ? row
                                     : msg->code && msg->code <= PSD_MAX_WORKERS ? &self->members.row[msg->code - 1]
                                                                                 : NULL;
    if (wanted && psd_worker_is_anothers(wanted, user)) {
        refuse(self, from, msg->seq, PSD_REFUSAL_WORKER, out, "worker %u is another user's", wanted->id);
        return;
    }
    if (!row && (self->state == PSD_JOB_FINISHED || self->ending)) {
        refuse(self, from, msg->seq, PSD_REFUSAL_JOB, out, self->stopped ? "job %s was stopped" : "job %s is finished", self->job);
        return;
    }
    if (row && !psd_worker_is_here(row)) {
        tell_fenced(self, from, row, row->incarnation, out);
        return;
    }
    if (row) {
        row->peer = from;
        row->heard_ms = now_ms;
        welcome(self, row, out);
        return;
    }
    char why[PSD_MAX_TEXT / 2];
    row = find_place(self, now_ms, msg, user, name, why, sizeof why);
    if (!row) {
        tell_to_wait(self, from, msg->seq, why, out);
        return;
    }
    uint64_t incarnation = row->incarnation + 1;
    uint32_t id = row->id;
    *row = (psd_worker_row_t){ .id = id,
                               .state = PSD_WORKER_JOINING,
                               .incarnation = incarnation,
                               .peer = from,
                               .user = user,
                               .nonce = msg->seq,
                               .heard_ms = now_ms };
    snprintf(row->name, sizeof row->name, "%s", name);
    psd_actions_log(out, PSD_LEVEL_DEBUG, "worker.hello", "worker=%u name=%s incarnation=%" PRIu64, id, row->name, incarnation);
    welcome(self, row, out);
}

/* Whether a worker trains on what the others do. The words are those of the first; when nobody else is here, they are its own. */
static bool has_our_recipe(psd_coordinator_t *self, const psd_worker_row_t *row, const char *recipe)
{
    bool alone = true;
    for (uint32_t i = 0; i < self->members.n_rows; i++)
        alone = alone &&
                (i == row->id || !psd_worker_is_here(&self->members.row[i]) || self->members.row[i].state == PSD_WORKER_JOINING);
    if (alone || !self->recipe[0])
        snprintf(self->recipe, sizeof self->recipe, "%.*s", PSD_MAX_RECIPE - 1, recipe);
    return !*recipe || !strcmp(self->recipe, recipe);
}

static void on_register(psd_coordinator_t *self, uint64_t now_ms, psd_worker_row_t *row, const psd_msg_t *msg, psd_buf_t *payload,
                        psd_actions_t *out)
{
    psd_tensor_list_t theirs;
    psd_err_t err = { 0 };
    int rc = psd_tensors_decode(&theirs, payload->data, payload->n_bytes, &err);
    if (rc == PSD_OK && !self->model.n) {
        rc = psd_tensors_copy(&self->model, &theirs);
        assert(rc == PSD_OK && "no memory for the model's list of tensors");
        psd_coord_append_entry(self, now_ms, PSD_MSG_MODEL, 0, psd_payload_copy(payload->data, payload->n_bytes), out);
    } else if (rc == PSD_OK) {
        rc = psd_tensors_compare(&self->model, &theirs, &err);
    }
    psd_tensors_clear(&theirs);
    if (rc != PSD_OK) {
        refuse(self, row->peer, row->nonce, PSD_REFUSAL_SHAPE, out, "worker %u registers another model: %s", row->id, err.text);
        row->state = PSD_WORKER_LEFT;
        return;
    }
    if (!has_our_recipe(self, row, msg->text)) {
        refuse(self, row->peer, row->nonce, PSD_REFUSAL_CONFIG, out,
               "worker %u trains another model, on other data or in another order: it has %.255s; "
               "the others have %s",
               row->id, msg->text, self->recipe);
        row->state = PSD_WORKER_LEFT;
        return;
    }
    /* One that has trained before it came was here when another server 0 was, whose job it was. */
    char why[128];
    const bool has_trained = row->state == PSD_WORKER_JOINING && msg->clock > 1;
    snprintf(why, sizeof why, "server 0 was started again after worker %u (%.60s) had trained", row->id, row->name);
    if (psd_coord_loses_weights(self, has_trained, now_ms, why, out))
        return;
    psd_coord_answer(self, row->peer, PSD_MSG_REGISTERED, row, NULL, out);
    if (row->state != PSD_WORKER_JOINING)
        return;
    row->state = PSD_WORKER_WAITING;
    self->newest_ready_ms = now_ms;
    if (!self->first_ready_ms)
        self->first_ready_ms = now_ms;
    psd_coord_evaluate(self, now_ms, out);
}

/* A worker whose work is done may be needed again, when a server is lost before the last weights are safe:
 * where that can be made good, its good-bye is answered when they are, also one's that was given up meanwhile. */
static void on_leave(psd_coordinator_t *self, uint64_t now_ms, psd_worker_row_t *row, const psd_msg_t *msg, psd_actions_t *out)
{
    const bool registered = row->state != PSD_WORKER_JOINING; /* without a model there is no work that could be done */
    bool finished = msg->code == 0 && registered;
    bool stays = finished && self->config.checkpoints && self->state != PSD_JOB_FINISHED;
    bool repeated = row->state == PSD_WORKER_LEFT && !(stays && row->finished);
    if (row->state == PSD_WORKER_DONE)
        return;
    if (!stays || repeated)
        psd_coord_answer(self, row->peer, PSD_MSG_LEFT, row, NULL, out);
    if (repeated)
        return;
    bool was_member = row->state == PSD_WORKER_LIVE;
    row->state = stays ? PSD_WORKER_DONE : PSD_WORKER_LEFT;
    row->finished = finished;
    psd_actions_log(out, PSD_LEVEL_INFO, "worker.left", "worker=%u name=%s finished=%s clock=%" PRIu64, row->id, row->name,
                    finished ? "true" : "false", msg->clock);
    if (was_member)
        psd_coord_view_changed(self, now_ms, out);
    psd_coord_evaluate(self, now_ms, out);
}

/* A live change of the learning rate: it goes into the log with the next decision, so that every shard makes
 * the same step with it. */
int psd_coord_set(psd_coordinator_t *self, uint64_t now_ms, const char *what, double value, const char *who, psd_actions_t *out,
                  psd_err_t *err)
{
    if (strcmp(what, "optimizer.lr") || !(value >= 0) || value > MAX_LR)
        return psd_err_set(err, PSD_ECONFIG, "setting \"%.60s\" to %g: only optimizer.lr can be set, to 0..%g", what, value,
                           (double)MAX_LR);
    bool news = self->config.lr != value;
    if (news)
        psd_actions_log(out, PSD_LEVEL_INFO, "optimizer.lr", "by=\"%s\" lr=%g was=%g after_clock=%" PRIu64, who, value,
                        self->config.lr, self->clock);
    self->config.lr = value;
    if (news)
        psd_coord_view_changed(self, now_ms, out);
    return PSD_OK;
}

static void on_setting(psd_coordinator_t *self, uint64_t now_ms, psd_worker_row_t *row, const psd_msg_t *msg, psd_actions_t *out)
{
    psd_err_t err = { 0 };
    char who[32];
    snprintf(who, sizeof who, "worker %u", row->id);
    if (psd_coord_set(self, now_ms, msg->text, msg->value, who, out, &err) != PSD_OK) {
        refuse(self, row->peer, msg->seq, PSD_REFUSAL_CONFIG, out, "%s", err.text);
        return;
    }
    psd_msg_t *done = psd_coord_answer(self, row->peer, PSD_MSG_SETTING, row, NULL, out);
    done->code = msg->code;
    done->value = msg->value;
    snprintf(done->text, sizeof done->text, "%s", msg->text);
}

static void note_report(psd_coordinator_t *self, const psd_msg_t *msg)
{
    char name[sizeof self->report.report[0].name];
    uint32_t i = 0;
    snprintf(name, sizeof name, "%.63s", msg->text);
    while (i < self->report.n_reports && strcmp(self->report.report[i].name, name))
        i++;
    if (i == PSD_MAX_REPORTS)
        return;
    self->report.n_reports = i < self->report.n_reports ? self->report.n_reports : i + 1;
    memcpy(self->report.report[i].name, name, sizeof name);
    self->report.report[i].value = msg->value;
}

/* With what the job waits for, which a worker cannot see by itself. */
static void answer_heartbeat(psd_coordinator_t *self, psd_peer_t from, const psd_worker_row_t *row, psd_actions_t *out)
{
    char text[PSD_MAX_TEXT / 2];
    psd_coord_describe_wait(self, text, sizeof text);
    psd_msg_t *beat = psd_coord_answer(self, from, PSD_MSG_HEARTBEAT, row, NULL, out);
    beat->code = row->drains ? PSD_HEARTBEAT_DRAIN : 0;
    snprintf(beat->text, sizeof beat->text, "%.190s", text);
}

void psd_coord_on_worker_message(psd_coordinator_t *self, uint64_t now_ms, psd_peer_t from, const psd_msg_t *msg,
                                 psd_buf_t *payload, psd_actions_t *out)
{
    if (msg->kind == PSD_MSG_HELLO) {
        on_hello(self, now_ms, from, msg, out);
        return;
    }
    if (msg->job != self->config.job_id) {
        refuse(self, from, 0, PSD_REFUSAL_RUN, out, "this is job run %016" PRIx64 ", you are of %016" PRIx64, self->config.job_id,
               msg->job);
        return;
    }
    psd_worker_row_t *row = &self->members.row[msg->worker];
    /* A good-bye is heard twice, and even from a worker that was given up wrongly: its work is done all the
     * same. */
    bool goes = (row->state == PSD_WORKER_LEFT || row->state == PSD_WORKER_LOST) && msg->kind == PSD_MSG_LEAVE;
    if (msg->incarnation != row->incarnation || msg->seq != row->nonce || row->user != psd_peer_user(from) ||
        !(psd_worker_is_here(row) || goes)) {
        self->report.rejected[PSD_REFUSAL_INCARNATION]++;
        psd_msg_t *fenced = tell_fenced(self, from, row, msg->incarnation, out);
        fenced->worker = msg->worker; /* also of a row that nobody has had */
        fenced->seq = 0;              /* the nonce is its holder's alone */
        return;
    }
    row->peer = from; /* a connection that was lost and made again has another name */
    row->heard_ms = now_ms;
    if (msg->clock > row->clock)
        row->clock = msg->clock;
    switch (msg->kind) {
    case PSD_MSG_HEARTBEAT:
        answer_heartbeat(self, from, row, out);
        break;
    case PSD_MSG_REGISTER:
        on_register(self, now_ms, row, msg, payload, out);
        break;
    case PSD_MSG_LEAVE:
        on_leave(self, now_ms, row, msg, out);
        break;
    case PSD_MSG_SETTING:
        on_setting(self, now_ms, row, msg, out);
        break;
    case PSD_MSG_REPORT:
        note_report(self, msg);
        break;
    default:
        break; /* the codec's table lets no other kind through to here */
    }
}

/* ---- shards ---- */

static bool has_workers(const psd_coordinator_t *self)
{
    for (uint32_t i = 0; i < self->members.n_rows; i++)
        if (psd_worker_is_here(&self->members.row[i]))
            return true;
    return false;
}

/* A server was started again. If the start before is part of this run, the job is taken up again without what that held. Whether
 * the new one may join. */
static bool take_up_again(psd_coordinator_t *self, uint64_t now_ms, uint32_t s, psd_actions_t *out)
{
    char why[64];
    if (!self->servers.row[s].joined)
        return true;
    if (!psd_journal_last(&self->journal) && !has_workers(self)) {
        psd_servers_leave(&self->servers, s); /* nothing has been built on it yet: no worker has been told where it is */
        return true;
    }
    snprintf(why, sizeof why, "server %u was started again", s);
    if (psd_coord_loses_weights(self, psd_coord_progress(self) > 0, now_ms, why, out))
        return false;
    psd_coord_new_run(self, why, out);
    return true;
}

static void welcome_shard(psd_coordinator_t *self, uint32_t s, psd_actions_t *out)
{
    psd_msg_t *yes = psd_actions_send(out, self->servers.row[s].peer, PSD_MSG_SHARD_WELCOME, NULL);
    yes->job = self->config.job_id;
    yes->seq = self->servers.row[s].nonce;
    yes->shard = s;
    yes->shard_epoch = self->servers.row[s].epoch;
    yes->world = self->config.n_servers;
    yes->code = self->saves.n_points > 0 ? PSD_WELCOME_RESTORE : 0;
    yes->clock = psd_saves_newest(&self->saves);
    /* How the job is, which a server is asked for too. */
    psd_coordinator_facts_t facts;
    psd_coordinator_facts(self, &facts);
    if (facts.state != PSD_JOB_FINISHED) /* that it reads in the log, and then ends */
        yes->code |= ((uint32_t)facts.state + 1) * PSD_WELCOME_STATE;
    if (facts.quorum && !facts.n_lost_servers)
        yes->code |= PSD_WELCOME_READY;
    psd_coord_describe_absent(self, yes->text, sizeof yes->text);
}

/* The job is over: a server that was started again need not join. */
static void tell_finished(psd_peer_t to, uint64_t nonce, psd_actions_t *out)
{
    psd_msg_t *over = psd_actions_send(out, to, PSD_MSG_SHARD_WELCOME, NULL);
    over->seq = nonce;
    over->code = PSD_WELCOME_FINISHED;
}

static void join_server(psd_coordinator_t *self, uint64_t now_ms, const psd_server_hello_t *hello, psd_actions_t *out)
{
    char why[PSD_MAX_TEXT];
    bool is_new;
    const int index = psd_servers_join(&self->servers, now_ms, hello, self->runs, &is_new, why, sizeof why);
    if (index < 0) {
        refuse(self, hello->from, hello->nonce, PSD_REFUSAL_SHARD, out, "%s", why);
        return;
    }
    if (is_new) {
        psd_actions_log(out, PSD_LEVEL_INFO, "server.joined", "shard=%d endpoint=%s", index, self->servers.row[index].endpoint);
        psd_journal_note_sent(&self->journal, (uint32_t)index, now_ms); /* hellos that repeat must not put off what is repeated */
    }
    welcome_shard(self, (uint32_t)index, out);
    psd_coord_evaluate(self, now_ms, out);
}

/* The text of a SHARD_HELLO is "job endpoint settings". */
void psd_coord_on_shard_hello(psd_coordinator_t *self, uint64_t now_ms, psd_peer_t from, const psd_msg_t *msg, psd_actions_t *out)
{
    const size_t n_job = strcspn(msg->text, " ");
    const char *endpoint = msg->text + n_job + (msg->text[n_job] == ' ');
    const size_t n = strcspn(endpoint, " ");
    const char *theirs = endpoint + n + (endpoint[n] == ' ');
    psd_server_hello_t hello = { .from = from, .nonce = msg->seq, .place = msg->code, .endpoint = endpoint, .n_endpoint = n };
    char why[PSD_MAX_TEXT];
    if (!is_of_this_job(self, from, msg, n_job, out))
        return;
    if (strcmp(theirs, self->settings)) {
        refuse(self, from, msg->seq, PSD_REFUSAL_CONFIG, out, "server %.*s has other settings: ours %.400s, theirs %.400s", (int)n,
               endpoint, self->settings, theirs);
        return;
    }
    const bool over = self->state == PSD_JOB_FINISHED;
    switch (psd_servers_judge(&self->servers, now_ms, &hello, over, why, sizeof why)) {
    case PSD_SERVER_ADMITTED:
        join_server(self, now_ms, &hello, out);
        break;
    case PSD_SERVER_RESTARTED:
        if (over)
            tell_finished(from, msg->seq, out);
        else if (take_up_again(self, now_ms, hello.place - 1, out))
            join_server(self, now_ms, &hello, out);
        break;
    case PSD_SERVER_WAITS:
        tell_to_wait(self, from, msg->seq, why, out);
        break;
    case PSD_SERVER_REFUSED:
        refuse(self, from, msg->seq, PSD_REFUSAL_SHARD, out, "%s", why);
        break;
    case PSD_SERVER_OVERTAKEN:
        break;
    }
}

void psd_coord_on_shard_state(psd_coordinator_t *self, uint64_t now_ms, psd_peer_t from, const psd_msg_t *msg, psd_buf_t *payload,
                              psd_actions_t *out)
{
    psd_round_t state;
    if (msg->job != self->config.job_id) {
        refuse(self, from, 0, PSD_REFUSAL_RUN, out, "this is job run %016" PRIx64 ", you are of %016" PRIx64, self->config.job_id,
               msg->job);
        return;
    }
    if (!psd_servers_is_from(&self->servers, from, msg->shard) ||
        psd_round_decode(&state, payload->data, payload->n_bytes, NULL) != PSD_OK) {
        self->report.rejected[PSD_REFUSAL_SESSION]++;
        return;
    }
    psd_journal_note_done(&self->journal, msg->shard, msg->seq);
    psd_servers_note_state(&self->servers, now_ms, msg->shard, msg->clock, msg->version);
    if (msg->code & PSD_SHARD_RESTORE_FAILED && self->saves.n_points) {
        psd_round_clear(&state);
        psd_coord_drop_point(self, now_ms, msg->shard, msg->text, out);
        return;
    }
    psd_saves_note_shard(&self->saves, msg, out);
    /* A report from before the newest decision says nothing about now: its shard may have dropped those
     * pushes. */
    bool news = state.n_contributors && state.clock == self->clock + 1 && msg->view_id == self->view_id;
    for (uint32_t k = 0; news && k < state.n_contributors; k++) {
        const psd_member_t *c = &state.contributor[k];
        psd_worker_row_t *row = &self->members.row[c->worker];
        if (row->incarnation != c->incarnation)
            continue;
        row->complete |= UINT64_C(1) << msg->shard;
        row->samples = c->samples;
        row->loss = c->loss;
        row->nonfinite |= c->nonfinite;
    }
    psd_round_clear(&state);
    if (news)
        psd_coord_evaluate(self, now_ms, out);
}
