#include "server/core/admin.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

typedef enum answer { DONE, NOT_YET, NO } answer_t;

/* One request, and the sentence of its answer. */
typedef struct request {
    uint64_t now_ms;
    uint64_t number; /* by which it is known when it is asked again */
    const psd_admin_request_t *request;
    psd_coordinator_t *job;
    psd_actions_t *out;
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

static answer_t pause(psd_admin_t *self, request_t *r)
{
    (void)self;
    char where[64];
    psd_coordinator_pause(r->job, r->now_ms, true, r->out);
    psd_coordinator_describe_position(r->job, where, sizeof where);
    return say(r, DONE, "paused after %s; run psdctl resume to continue", where);
}

static answer_t resume(psd_admin_t *self, request_t *r)
{
    (void)self;
    char where[64];
    const bool was_paused = psd_coordinator_pause(r->job, r->now_ms, false, r->out);
    psd_coordinator_describe_position(r->job, where, sizeof where);
    return say(r, DONE, was_paused ? "continues after %s" : "it was not paused; it is at %s", where);
}

/* The worker is told with its next heartbeat, and leaves after its open round. */
static answer_t drain(psd_admin_t *self, request_t *r)
{
    psd_coordinator_facts_t facts;
    psd_coordinator_facts(r->job, &facts);
    if (r->number != self->drain.asked) {
        const psd_worker_row_t *row = psd_coordinator_drain(r->job, r->request->word, r->out);
        if (!row)
            return say(r, NO, "there is no worker %.80s; psdctl status lists the workers", r->request->word);
        self->drain.asked = r->number;
        self->drain.worker = row->id;
        self->drain.incarnation = row->incarnation;
        self->drain.runs = facts.runs;
    }
    if (facts.runs != self->drain.runs)
        return say(r, NO, "a server has restarted before worker %u had left, and all workers join again; ask again",
                   self->drain.worker);
    const psd_membership_t *members = psd_coordinator_members(r->job);
    const psd_worker_row_t *row = &members->row[self->drain.worker];
    if (row->incarnation == self->drain.incarnation && psd_worker_is_here(row))
        return say(r, NOT_YET, "worker %u (%s) leaves after its open round", row->id, row->name);
    return say(r, DONE, "worker %u has left; %u are here%s", self->drain.worker, psd_membership_count(members, PSD_WORKER_LIVE),
               psd_coordinator_has_quorum(r->job) ? "" : ", fewer than workers.min: rounds wait for another");
}

static answer_t save(psd_admin_t *self, request_t *r)
{
    const psd_job_state_t state = psd_coordinator_state(r->job);
    psd_coordinator_facts_t facts;
    uint64_t clock;
    if (!psd_coordinator_can_save(r->job))
        return say(r, NO, "the servers were started without checkpoint.dir, and have nowhere to save to");
    if (state == PSD_JOB_GATHERING || state == PSD_JOB_FINISHED)
        return say(r, NO, "nothing is being trained: the job is %s", psd_job_state_name(state));
    if (r->number != self->save.asked) {
        self->save.asked = r->number;
        self->save.ms = r->now_ms;
        psd_coordinator_request_save(r->job);
    }
    switch (psd_coordinator_save_outcome(r->job, self->save.ms, &clock)) {
    case PSD_SAVE_SAFE:
        return say(r, DONE, "checkpoint %" PRIu64 " is safe", clock);
    case PSD_SAVE_FAILED:
        psd_coordinator_facts(r->job, &facts);
        return say(r, NO, "the checkpoint could not be written (the servers' logs say why); %s",
                   facts.has_point ? "the one before stays the newest" : "there is none");
    case PSD_SAVE_PENDING:
        break;
    }
    return say(r, NOT_YET, "the checkpoint is being written");
}

static answer_t set(psd_admin_t *self, request_t *r)
{
    (void)self;
    psd_err_t err = { 0 };
    if (psd_coordinator_set(r->job, r->now_ms, r->request->word, r->request->value, "operator", r->out, &err) != PSD_OK)
        return say(r, NO, "%.400s", err.text);
    return say(r, DONE, "%.60s is %g from the next step on", r->request->word, r->request->value);
}

static const struct verb {
    const char *name;
    bool takes_word;
    answer_t (*run)(psd_admin_t *self, request_t *r);
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

static answer_t carry_out(psd_admin_t *self, request_t *r, psd_refusal_t *why)
{
    const char *ours = psd_coordinator_job(r->job);
    *why = PSD_REFUSAL_CONFIG;
    if (!r->request)
        return say(r, NO, "nothing is asked for");
    const struct verb *verb = find_verb(r->request->verb);
    *why = PSD_REFUSAL_JOB;
    if (strcmp(r->request->job, ours))
        return say(r, NO, "this is job %s, you ask for job %.100s", ours, r->request->job);
    *why = PSD_REFUSAL_CONFIG;
    if (!verb || (*r->request->word != '\0') != verb->takes_word)
        return say(r, NO, "\"%s%s%.80s\" is not a request that psd knows", r->request->verb, *r->request->word ? " " : "",
                   r->request->word);
    if (psd_coordinator_is_ending(r->job))
        return say(r, NO, "job %s is ending", ours);
    return verb->run(self, r);
}

bool psd_admin_takes(psd_kind_t kind) { return kind == PSD_MSG_ADMIN; }

void psd_admin_message(psd_admin_t *self, psd_coordinator_t *coordinator, uint64_t now_ms, psd_peer_t from, const psd_msg_t *msg,
                       const psd_buf_t *payload, psd_actions_t *out)
{
    static const psd_kind_t kinds[] = { [DONE] = PSD_MSG_ADMIN, [NOT_YET] = PSD_MSG_WAIT, [NO] = PSD_MSG_REFUSED };
    request_t r = { .now_ms = now_ms,
                    .number = msg->seq,
                    .request = payload ? psd_body_admin_request(payload) : NULL,
                    .job = coordinator,
                    .out = out };
    psd_refusal_t why;
    const answer_t answer = carry_out(self, &r, &why);
    psd_coordinator_answer(coordinator, from, kinds[answer], msg->seq, answer == NO ? why : PSD_REFUSAL_NONE, r.text, out);
}
