/* coordinator_admin.c - what an operator asks for: one row per verb. Asking twice is asking once: a request
 * is known by its number, and one that takes time is answered with WAIT until it is done. */
#include "server/core/coordinator_state.h"

enum { WORD = 256 };

typedef enum answer { DONE, NOT_YET, NO } answer_t;

/* One request, and the sentence of its answer. */
typedef struct request {
    uint64_t now_ms;
    const psd_msg_t *msg;
    char word[WORD]; /* what follows the verb */
    char text[PSD_MAX_TEXT / 2];
} request_t;

static answer_t say(request_t *r, answer_t answer, const char *format, ...) __attribute__((format(printf, 3, 4)));

static answer_t say(request_t *r, answer_t answer, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(r->text, sizeof r->text, format, args);
    va_end(args);
    return answer;
}

static void set_paused(psd_coordinator_t *self, uint64_t now_ms, bool paused, psd_actions_t *out)
{
    if (self->paused == paused)
        return;
    self->paused = paused;
    self->round_since_ms = now_ms;
    psd_coord_evaluate(self, now_ms, out);
}

/* How far the job is, as far as the shards have told. */
static const char *position(const psd_coordinator_t *self, char text[64])
{
    snprintf(text, 64, "%s %" PRIu64, self->config.mode->unit, psd_coord_progress(self) / self->config.n_servers);
    return text;
}

static answer_t pause(psd_coordinator_t *self, request_t *r, psd_actions_t *out)
{
    char where[64];
    set_paused(self, r->now_ms, true, out);
    return say(r, DONE, "paused after %s; psdctl resume goes on", position(self, where));
}

static answer_t resume(psd_coordinator_t *self, request_t *r, psd_actions_t *out)
{
    char where[64];
    bool was_paused = self->paused;
    set_paused(self, r->now_ms, false, out);
    return say(r, DONE, was_paused ? "going on after %s" : "it was not paused; it is at %s", position(self, where));
}

/* A worker by its id, or by its name; NULL when no such one is here. */
static psd_worker_row_t *find_worker(psd_coordinator_t *self, const char *word)
{
    char id[16];
    for (uint32_t i = 0; i < self->members.n_rows; i++) {
        psd_worker_row_t *row = &self->members.row[i];
        snprintf(id, sizeof id, "%u", i);
        if (psd_worker_is_here(row) && (!strcmp(word, id) || !strcmp(word, row->name)))
            return row;
    }
    return NULL;
}

/* The worker is told with its next heartbeat, and leaves after its open round. */
static answer_t drain(psd_coordinator_t *self, request_t *r, psd_actions_t *out)
{
    if (r->msg->seq != self->drain.asked) {
        psd_worker_row_t *row = find_worker(self, r->word);
        if (!row)
            return say(r, NO, "no worker %.80s is here; psdctl status lists those that are", r->word);
        row->drains = true;
        self->drain.asked = r->msg->seq;
        self->drain.worker = row->id;
        self->drain.incarnation = row->incarnation;
        psd_actions_log(out, PSD_LEVEL_INFO, "worker.drain", "worker=%u name=%s", row->id, row->name);
    }
    const psd_worker_row_t *row = &self->members.row[self->drain.worker];
    if (row->incarnation == self->drain.incarnation && psd_worker_is_here(row))
        return say(r, NOT_YET, "worker %u (%s) leaves after its open round", row->id, row->name);
    uint32_t live = psd_membership_count(&self->members, PSD_WORKER_LIVE);
    return say(r, DONE, "worker %u has left; %u are here%s", self->drain.worker, live,
               psd_coord_has_quorum(self, live) ? "" : ", fewer than workers.min: rounds wait for another");
}

static answer_t save(psd_coordinator_t *self, request_t *r, psd_actions_t *out)
{
    (void)out;
    if (!self->config.checkpoints)
        return say(r, NO, "the servers were started without checkpoint.dir, and have nowhere to save to");
    if (self->state == PSD_JOB_GATHERING || self->state == PSD_JOB_FINISHED)
        return say(r, NO, "nothing is being trained: the job is %s", psd_job_state_name(self->state));
    if (r->msg->seq != self->save_asked.by) {
        self->save_asked.by = r->msg->seq;
        self->save_asked.ms = r->now_ms;
        psd_saves_ask(&self->saves);
    }
    const bool saved = psd_coord_is_saved(self);
    if (psd_saves_is_newer(&self->saves, self->save_asked.ms) || (!psd_saves_is_busy(&self->saves) && saved)) {
        if (saved)
            psd_saves_unask(&self->saves);
        return say(r, DONE, "checkpoint %" PRIu64 " is safe", psd_saves_newest(&self->saves));
    }
    if (psd_saves_has_failed_since(&self->saves, self->save_asked.ms))
        return say(r, NO,
                   "the checkpoint could not be written (the servers' logs say why); the one before stays "
                   "the newest");
    return say(r, NOT_YET, "the checkpoint is being written");
}

static answer_t set(psd_coordinator_t *self, request_t *r, psd_actions_t *out)
{
    psd_err_t err = { 0 };
    if (psd_coord_set(self, r->now_ms, r->word, r->msg->value, "operator", out, &err) != PSD_OK)
        return say(r, NO, "%.400s", err.text);
    return say(r, DONE, "%.60s is %g from the next step on", r->word, r->msg->value);
}

static const struct verb {
    const char *name;
    bool takes_word;
    answer_t (*run)(psd_coordinator_t *self, request_t *r, psd_actions_t *out);
} verbs[] = {
    { "pause", false, pause }, { "resume", false, resume }, { "drain", true, drain }, { "save", false, save }, { "set", true, set },
};

static const struct verb *find_verb(const char *name)
{
    for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++)
        if (!strcmp(verbs[i].name, name))
            return &verbs[i];
    return NULL;
}

static answer_t carry_out(psd_coordinator_t *self, request_t *r, psd_refusal_t *why, psd_actions_t *out)
{
    char job[PSD_MAX_NAME] = "", name[16] = "", rest[2] = "";
    int n = sscanf(r->msg->text, "%127s %15s %255s %1s", job, name, r->word, rest);
    const struct verb *verb = find_verb(name);
    *why = PSD_REFUSAL_JOB;
    if (strcmp(job, self->job))
        return say(r, NO, "this is job %s, you ask for job %.100s", self->job, job);
    *why = PSD_REFUSAL_CONFIG;
    if (!verb || n != 2 + verb->takes_word)
        return say(r, NO, "\"%.100s\" is nothing that can be asked for", r->msg->text);
    if (self->state == PSD_JOB_FINISHED || self->ending)
        return say(r, NO, "job %s is ending", self->job);
    return verb->run(self, r, out);
}

void psd_coord_on_admin(psd_coordinator_t *self, uint64_t now_ms, psd_peer_t from, const psd_msg_t *msg, psd_actions_t *out)
{
    static const psd_kind_t kinds[] = { [DONE] = PSD_MSG_ADMIN, [NOT_YET] = PSD_MSG_WAIT, [NO] = PSD_MSG_REFUSED };
    request_t r = { .now_ms = now_ms, .msg = msg };
    psd_refusal_t why;
    answer_t answer = carry_out(self, &r, &why, out);
    psd_msg_t *reply = psd_coord_answer(self, from, kinds[answer], NULL, NULL, out);
    reply->seq = msg->seq;
    if (answer == NO) {
        reply->code = why;
        self->report.rejected[why]++;
    }
    snprintf(reply->text, sizeof reply->text, "%s", r.text);
}
