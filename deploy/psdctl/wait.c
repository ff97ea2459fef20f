#include "deploy/psdctl/wait.h"

#include <getopt.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "common/number.h"
#include "deploy/psdctl/http.h"
#include "deploy/psdctl/say.h"

/* A server publishes four times a second; one that is silent for longer is stuck, or gone. */
enum { SILENCE_MS = 5000, AGAIN_MS = 200, GONE_MS = 10000 };

static const char usage[] =
    "Usage: psdctl wait [options] [URL]\n"
    "Block until the job of the server at URL (default " PSD_CTL_URL ") has come so far.\n"
    "  --for WHAT         ready, the default: rounds are, or can be, made;\n"
    "                     step=N: N optimizer steps are made; finished: the job is done\n"
    "  --timeout SECONDS  give up after so long; default: when nobody answers for 10 s\n"
    "  --token-file FILE  the token that the server asks for (its status.token)\n";

typedef struct wait {
    const char *url, *token_file; /* no file: NULL */
    const char *wanted; /* "ready", "finished", or "" for a step */
    double step;
    uint64_t deadline_ms; /* 0: none */
    uint64_t answered_ms; /* when there last was an answer, or the start */
} wait_t;

static uint64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* PSD_OK: so far; PSD_EAGAIN: not yet; else why it never will. */
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

/* Follow the events until they end or decide. PSD_EUNAVAILABLE: ask again. */
static int follow(wait_t *self, unsigned wait_ms, psd_err_t *err)
{
    psd_http_t *events = psd_http_get(self->url, self->token_file, "/events", wait_ms, err);
    int rc = events ? PSD_EAGAIN : err->code;
    while (rc == PSD_EAGAIN) {
        json_t *status = psd_http_event(events, err);
        rc = status ? judge(self, status, err) : err->code;
        if (status)
            self->answered_ms = now_ms();
        json_decref(status);
        if (rc == PSD_EAGAIN && self->deadline_ms && now_ms() >= self->deadline_ms)
            rc = psd_err_set(err, PSD_ETIMEOUT, "not so far within the timeout");
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
            return self->deadline_ms ? psd_err_wrap(err, "not so far within the timeout") : err->code;
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

static bool read_timeout(wait_t *self, const char *text)
{
    double seconds;
    if (!*text || psd_number_read(text, &seconds) != strlen(text) || !(seconds > 0 && seconds < 1e6))
        return false;
    self->deadline_ms = now_ms() + (uint64_t)(seconds * 1e3);
    return true;
}

int psd_ctl_wait(int argc, char **argv)
{
    static const struct option long_options[] = { { "for", required_argument, NULL, 'f' },
                                                  { "timeout", required_argument, NULL, 't' },
                                                  { "token-file", required_argument, NULL, 'k' },
                                                  { "help", no_argument, NULL, 'h' },
                                                  { 0 } };
    wait_t self = { .url = PSD_CTL_URL, .wanted = "ready", .answered_ms = now_ms() };
    bool good = true;
    for (int option; good && (option = getopt_long(argc, argv, "h", long_options, NULL)) != -1;) {
        if (option == 'h') {
            fputs(usage, stdout);
            return 0;
        }
        if (option == 'k')
            self.token_file = optarg;
        else
            good = option == 'f' ? read_what(&self, optarg) : option == 't' && read_timeout(&self, optarg);
    }
    if (!good || argc - optind > 1) {
        fputs(usage, stderr);
        return psd_err_exit_code(PSD_EUSAGE);
    }
    self.url = optind < argc ? argv[optind] : self.url;
    psd_err_t err = { 0 };
    int rc = wait_for(&self, &err);
    return rc == PSD_OK ? 0 : psd_say_error("wait", &err);
}
