/* wait.c - `psdctl wait`: blocks until a job has reached a state, for scripts. It follows the events at URL. */
#include "deploy/psdctl/verb.h"

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "common/config/number.h"
#include "deploy/psdctl/inspect/http.h"
#include "deploy/psdctl/say.h"

/* A server publishes four times a second; one that is silent for this long is stuck or gone. */
enum { SILENCE_MS = 5000, AGAIN_MS = 200, GONE_MS = 10000 };

typedef struct wait {
    const char *url, *token_file; /* no file: NULL */
    const char *wanted;           /* "ready", "finished", or "" for a step */
    double step;
    uint64_t deadline_ms; /* 0: none */
    uint64_t answered_ms; /* time of the last answer, or of the start */
    bool degraded;        /* the degraded state has been reported */
    char last[300];       /* the job's state in the last answer */
} wait_t;

static uint64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* PSD_OK: reached; PSD_EAGAIN: not yet; otherwise why the job will never reach it. */
static int judge(const wait_t *self, const json_t *status, psd_err_t *err)
{
    const char *state = psd_http_text_at(status, "state");
    double step = psd_http_number_at(status, "progress", "step");
    bool finished = strcmp(state, "finished") == 0;
    if (!*self->wanted                       ? step >= self->step
        : strcmp(self->wanted, "ready") == 0 ? json_is_true(json_object_get(status, "ready"))
                                             : finished)
        return PSD_OK;
    if (strcmp(state, "failed") == 0)
        return psd_err_set(err, PSD_EDIVERGED, "the job has failed, at step %.0f", step);
    if (finished || strcmp(state, "stopped") == 0)
        return psd_err_set(err, PSD_ESTOPPED, "the job is %s, at step %.0f", state, step);
    return PSD_EAGAIN;
}

/* Report that the job has stopped, and which process it waits for. */
static void note_state(wait_t *self, const json_t *status)
{
    const char *state = psd_http_text_at(status, "state"), *reason = psd_http_text_at(status, "reason");
    const bool degraded = strcmp(state, "degraded") == 0;
    snprintf(self->last, sizeof self->last, "%.40s%s%.240s", state, *reason ? ", waits for " : "", reason);
    if (degraded && !self->degraded) {
        fputs("psdctl wait: the job is ", stderr);
        psd_say_text(stderr, self->last, SIZE_MAX);
        fputc('\n', stderr);
    }
    self->degraded = degraded;
}

/* Follow the events until they end or give the result. PSD_EUNAVAILABLE: ask again. */
static int follow(wait_t *self, unsigned wait_ms, psd_err_t *err)
{
    psd_http_t *events = psd_http_get(self->url, self->token_file, "/events", wait_ms, err);
    int rc = events ? PSD_EAGAIN : err->code;
    while (rc == PSD_EAGAIN) {
        json_t *status = psd_http_event(events, err);
        rc = status ? judge(self, status, err) : err->code;
        if (status) {
            self->answered_ms = now_ms();
            note_state(self, status);
        }
        json_decref(status);
        if (rc == PSD_EAGAIN && self->deadline_ms && now_ms() >= self->deadline_ms)
            rc = psd_err_set(err, PSD_ETIMEOUT, "timed out; the job is %s", self->last);
    }
    psd_http_close(&events);
    return rc;
}

static int wait_for(wait_t *self, psd_err_t *err)
{
    const struct timespec pause = { .tv_nsec = AGAIN_MS * 1000000L };
    for (;;) {
        uint64_t now = now_ms(), limit = self->deadline_ms ? self->deadline_ms : self->answered_ms + GONE_MS;
        if (now >= limit && err->code)
            return self->deadline_ms ? psd_err_wrap(err, "timed out") : err->code;
        unsigned left_ms = now < limit ? (unsigned)(limit - now) : 1;
        int rc = follow(self, left_ms < SILENCE_MS ? left_ms : SILENCE_MS, err);
        if (rc != PSD_EUNAVAILABLE)
            return rc;
        nanosleep(&pause, NULL);
    }
}

static bool read_what(wait_t *self, const char *what)
{
    static const char step[] = "step=";
    size_t n = strncmp(what, step, sizeof step - 1) == 0 ? sizeof step - 1 : 0;
    if (!n) {
        self->wanted = what;
        return strcmp(what, "ready") == 0 || strcmp(what, "finished") == 0;
    }
    self->wanted = "";
    return what[n] && psd_number_read(what + n, &self->step) == strlen(what + n) && self->step >= 1 &&
           self->step == floor(self->step);
}

enum { FOR, TIMEOUT, TOKEN };

static int run(const psd_args_t *args)
{
    wait_t self = { .url = args->word[0] ? args->word[0] : PSD_CTL_URL,
                    .token_file = args->flag[TOKEN],
                    .wanted = "ready",
                    .answered_ms = now_ms() };
    psd_err_t err = { 0 };
    if (args->flag[FOR] && !read_what(&self, args->flag[FOR]))
        return psd_verb_misuse(args->verb, "--for takes ready, finished, or step=N with N from 1; not %s", args->flag[FOR]);
    if (args->flag[TIMEOUT])
        self.deadline_ms = now_ms() + (uint64_t)(args->value[TIMEOUT].d * 1e3);
    int rc = wait_for(&self, &err);
    return rc == PSD_OK ? 0 : psd_say_error("wait", &err);
}

const psd_verb_t psd_verb_wait = {
    .name = "wait",
    .words = "[URL]",
    .does = "block until a job is ready, at a step, or finished",
    .about = "URL is the status endpoint of a server of the job; default " PSD_CTL_URL ".",
    .flag = { [FOR] = { .key = "for",
                        .type = PSD_OPTION_STRING,
                        .argument = "WHAT",
                        .help = "ready, the default: the job trains, or could; step=N: it has made N optimizer steps; finished: it "
                                "is done" },
              [TIMEOUT] = { .key = "timeout",
                            .type = PSD_OPTION_DOUBLE,
                            .argument = "SECONDS",
                            .range = "0.001..1000000",
                            .help = "give up after this long; default: when no server answers for 10 s" },
              [TOKEN] = { .key = "token-file",
                          .type = PSD_OPTION_PATH,
                          .argument = "FILE",
                          .help = "file with the token that the server requires (its status.token)" } },
    .examples = "psdctl wait http://127.0.0.1:7471\npsdctl wait --for=step=1000 --timeout=600\n",
    .exits = "0 when the job has reached that state; 1 when the job failed; 75 when it ended or was stopped before; 69 when no "
             "server answered, "
             "or the timeout passed",
    .run = run,
};
