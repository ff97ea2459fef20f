#include "deploy/psdctl/compare/trials.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <uv.h>

#include "common/system/hangup.h"
#include "common/system/progress.h"
#include "deploy/psdctl/run/child.h"
#include "deploy/psdctl/run/command.h"
#include "deploy/psdctl/run/place.h"

/* A place for one run at a time; there are compare.jobs of them. */
typedef struct slot {
    psd_child_t child;
    size_t run;         /* the run in this place: seed number * contenders + contender */
    char progress[200]; /* its progress, from its last line */
    char words[400];    /* the first error of psdctl run itself: why the run failed */
} slot_t;

typedef struct trials {
    const char *verb; /* of psdctl, for messages */
    const psd_options_t *options;
    psd_comparison_t *comparison;
    const char *directory;
    psd_trials_t *result;
    psd_place_t place;
    uv_loop_t loop;
    uv_signal_t term, interrupt, hangup;
    slot_t *slot;
    unsigned n_slots, n_busy, n_lines; /* lines: of progress, drawn at the bottom of the terminal */
    size_t next;                       /* the first run that has not been considered yet */
    size_t n_made;                     /* finished runs made since `begun_ms` */
    uint64_t begun_ms;
    bool terminal;
} trials_t;

/* -- output --------------------------------------------------------------------------------------- */

static const psd_contender_t *contender_of(const trials_t *self, size_t run)
{
    return &self->comparison->contender[run % self->comparison->n];
}

static unsigned seed_number_of(const trials_t *self, size_t run) { return (unsigned)(run / self->comparison->n); }

static uint64_t seed_of(const trials_t *self, size_t run) { return self->comparison->first_seed + seed_number_of(self, run); }

static void wipe(trials_t *self)
{
    for (; self->n_lines; self->n_lines--)
        fputs("\033[A\r\033[K", stderr);
}

/* Columns of the terminal except the last, because a wrapped line could not be erased. */
static int width(void)
{
    struct winsize size;
    return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1 ? size.ws_col - 1 : 79;
}

/* The number of finished runs, and the time for the others at the pace so far. */
static void draw_total(const trials_t *self)
{
    char left[64] = "";
    const uint64_t more = self->result->n - self->next + self->n_busy, spent_ms = uv_now(&self->loop) - self->begun_ms;
    const uint64_t seconds = self->n_made ? spent_ms * more / self->n_made / 1000 : 0;
    if (self->n_made)
        snprintf(left, sizeof left, ", %" PRIu64 ":%02" PRIu64 " left", seconds / 60, seconds % 60);
    fprintf(stderr, "%zu of %zu runs are done%s\n", self->result->n_kept, self->result->n, left);
}

static void draw(trials_t *self)
{
    char line[PSD_RULE_TEXT + 240];
    if (!self->terminal || !self->n_busy)
        return;
    wipe(self);
    for (unsigned i = 0; i < self->n_slots; i++) {
        const slot_t *slot = &self->slot[i];
        if (!psd_child_is_here(&slot->child))
            continue;
        snprintf(line, sizeof line, "%s seed %" PRIu64 "  %s", contender_of(self, slot->run)->label, seed_of(self, slot->run),
                 slot->progress);
        fprintf(stderr, "%.*s\n", width(), line);
        self->n_lines++;
    }
    draw_total(self);
    self->n_lines++;
}

static void say(trials_t *self, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Print a line that stays. */
static void say(trials_t *self, const char *format, ...)
{
    va_list args;
    wipe(self);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    draw(self);
}

/* "run=7 of=51 optimizer="adam(lr=0.001)" seed=1" */
static void name_run(const trials_t *self, size_t run, char out[PSD_RULE_TEXT + 80])
{
    snprintf(out, PSD_RULE_TEXT + 80, "run=%zu of=%zu optimizer=\"%s\" seed=%" PRIu64, run + 1, self->result->n,
             contender_of(self, run)->label, seed_of(self, run));
}

static void say_done(trials_t *self, size_t run)
{
    const psd_outcome_t *o = &contender_of(self, run)->outcome[seed_number_of(self, run)];
    char name[PSD_RULE_TEXT + 80];
    name_run(self, run, name);
    if (*self->comparison->schedule)
        say(self, "compare.done %s outcome=\"range test\" steps=%" PRIu64, name, o->steps);
    else if (o->diverged)
        say(self, "compare.done %s outcome=diverged steps=%" PRIu64, name, o->steps);
    else
        say(self, "compare.done %s outcome=%s %s=%.6g seconds=%.2f", name,
            o->undefined   ? "undefined"
            : o->untrained ? "\"failed to train\""
                           : "done",
            o->metric, o->final, o->seconds);
}

/* Keep the first failure's code. */
static void note_code(trials_t *self, int code)
{
    if (!self->result->code)
        self->result->code = code;
}

/* -- runs -------------------------------------------------------------------------------------------------- */

/* The directory of a finished run or, with ".part", of an unfinished one. */
static void name_directory(const trials_t *self, size_t run, const char *suffix, char out[PATH_MAX])
{
    char name[PSD_CELL];
    psd_comparison_run_name(self->comparison, run % self->comparison->n, seed_number_of(self, run), name);
    snprintf(out, PATH_MAX, "%s/runs/%s%s", self->directory, name, suffix);
}

static int take(trials_t *self, size_t run, const char *directory, psd_err_t *err)
{
    return psd_comparison_take(self->comparison, run % self->comparison->n, seed_number_of(self, run), directory, err);
}

static void stop_all(trials_t *self, int number)
{
    self->result->stopped = true;
    for (unsigned i = 0; i < self->n_slots; i++)
        psd_child_kill(&self->slot[i].child, number);
}

/* Errors that the other runs would repeat. */
static bool is_hopeless(int code)
{
    static const int codes[] = { PSD_EUSAGE, PSD_EDATA, PSD_ENOINPUT, PSD_ECONFIG };
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
        if (code == psd_err_exit_code(codes[i]))
            return true;
    return false;
}

static void fail(trials_t *self, const slot_t *slot, int code, const char *why)
{
    char name[PSD_RULE_TEXT + 80], directory[PATH_MAX];
    name_run(self, slot->run, name);
    name_directory(self, slot->run, ".part", directory);
    say(self, "compare.failed %s code=%d log=%s/run.log reason=\"%s\"", name, code, directory, why);
    note_code(self, code);
}

static bool start_next(trials_t *self, slot_t *slot);

/* Rename its directory when all results of a successful run have been read from it. */
static void finish(trials_t *self, slot_t *slot)
{
    const psd_child_t *child = &slot->child;
    char part[PATH_MAX], kept[PATH_MAX], end[450];
    psd_err_t err = { 0 };
    const int failed = psd_err_exit_code(PSD_EDIVERGED), code = child->signal ? failed : (int)child->code;
    name_directory(self, slot->run, ".part", part);
    name_directory(self, slot->run, "", kept);
    int rc = code && code != failed ? PSD_EDATA : take(self, slot->run, part, &err);
    const psd_outcome_t *o = &contender_of(self, slot->run)->outcome[seed_number_of(self, slot->run)];
    if (rc == PSD_EDIVERGED) {
        say(self, "psdctl %s: %s", self->verb, err.text);
        note_code(self, failed);
        stop_all(self, SIGTERM);
    } else if (rc || (code && !o->diverged)) {
        psd_child_describe_end(child, end, sizeof end);
        fail(self, slot, code ? code : failed, code && *slot->words ? slot->words : code ? end : err.text);
        if (is_hopeless(code))
            stop_all(self, SIGTERM);
    } else if (rename(part, kept)) {
        fail(self, slot, psd_err_exit_code(PSD_EIO), strerror(errno));
    } else {
        self->result->n_kept++;
        self->n_made++;
        say_done(self, slot->run);
    }
}

static void on_gone(psd_child_t *child)
{
    slot_t *slot = (slot_t *)child;
    trials_t *self = child->owner;
    self->n_busy--;
    if (!self->result->stopped || (!child->code && !child->signal))
        finish(self, slot);
    if (!start_next(self, slot) && !self->n_busy)
        uv_stop(&self->loop);
    draw(self);
}

/* A line of progress for the terminal, shortened to fit. */
static void shorten(const char *line, char *out, size_t capacity)
{
    static const char *const wanted[] = { "step=", "loss=", "val_", "eta_s=" };
    size_t used = 0;
    *out = '\0';
    for (size_t n; *line; line += n + (line[n] == ' ')) {
        n = strcspn(line, " ");
        for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
            if (!strncmp(line, wanted[i], strlen(wanted[i])) && used + n + 2 < capacity)
                used += (size_t)snprintf(out + used, capacity - used, "%.*s ", (int)n, line);
    }
}

static void on_said(psd_child_t *child, bool on_stderr, const char *line)
{
    static const char self_said[] = "psdctl: ";
    slot_t *slot = (slot_t *)child;
    trials_t *self = child->owner;
    char name[PSD_RULE_TEXT + 80];
    if (on_stderr && !strncmp(line, self_said, sizeof self_said - 1) && !*slot->words)
        snprintf(slot->words, sizeof slot->words, "%.*s", (int)sizeof slot->words - 1, line + sizeof self_said - 1);
    if (!on_stderr || strncmp(line, "step=", 5) != 0)
        return;
    name_run(self, slot->run, name);
    shorten(line, slot->progress, sizeof slot->progress);
    if (self->terminal)
        draw(self);
    else
        say(self, "compare.progress %s %s", name, line);
}

/* Keep a complete run from an earlier start, and remove an incomplete one. False when the run must be made. */
static bool is_kept(trials_t *self, size_t run)
{
    char kept[PATH_MAX];
    psd_err_t err = { 0 };
    name_directory(self, run, "", kept);
    if (access(kept, F_OK) != 0)
        return false;
    int rc = take(self, run, kept, &err);
    if (rc == PSD_EDIVERGED) {
        say(self, "psdctl %s: %s", self->verb, err.text);
        note_code(self, psd_err_exit_code(rc));
        stop_all(self, SIGTERM);
        return true;
    }
    if (rc) {
        say(self, "compare.again directory=%s reason=\"%s\"", kept, err.text);
        psd_place_remove(kept, NULL); /* otherwise the new one cannot take its name, and reports that */
        return false;
    }
    self->result->n_kept++;
    return true;
}

static int start(trials_t *self, slot_t *slot, psd_err_t *err)
{
    char part[PATH_MAX], log[PATH_MAX];
    psd_command_t command;
    name_directory(self, slot->run, ".part", part);
    int rc = psd_place_remove(part, err);
    rc = rc ? rc : psd_place_make(part, err);
    if (rc)
        return rc;
    psd_command_run(&command, &(psd_command_run_t){ .options = self->options,
                                                    .psdctl = self->place.self,
                                                    .run_dir = part,
                                                    .rule = contender_of(self, slot->run)->name,
                                                    .seed = seed_of(self, slot->run),
                                                    .n_workers = self->comparison->n_workers,
                                                    .validation = self->comparison->validation,
                                                    .share = self->comparison->share,
                                                    .schedule = *self->comparison->schedule ? self->comparison->schedule : NULL,
                                                    .schedule_unit = self->comparison->schedule_unit,
                                                    .short_progress = self->terminal });
    snprintf(log, sizeof log, "%.*s/run.log", (int)sizeof log - 16, part);
    slot->words[0] = '\0';
    slot->progress[0] = '\0';
    self->n_busy++;
    rc = psd_child_start(&slot->child, &self->loop, self->place.self, command.word, NULL, log);
    psd_command_clear(&command);
    return rc ? psd_err_set(err, PSD_ESYSTEM, "cannot start psdctl run: %s", uv_strerror(rc)) : PSD_OK;
}

/* Find the next run to make; false when there is none. */
static bool start_next(trials_t *self, slot_t *slot)
{
    psd_err_t err = { 0 };
    while (!self->result->stopped && self->next < self->result->n) {
        slot->run = self->next++;
        if (is_kept(self, slot->run))
            continue;
        const int rc = start(self, slot, &err);
        if (!rc)
            return true;
        fail(self, slot, psd_err_exit_code(rc), err.text);
        stop_all(self, SIGTERM);
    }
    return false;
}

static void on_signal(uv_signal_t *handle, int number)
{
    trials_t *self = handle->data;
    if (self->result->stopped && number == SIGHUP)
        return;
    note_code(self, psd_err_exit_code(PSD_ESTOPPED));
    if (!self->result->stopped)
        say(self, "psdctl %s: stopping; press Ctrl-C again to stop at once", self->verb);
    stop_all(self, self->result->stopped ? SIGKILL : SIGTERM);
}

static void ignore_close(uv_handle_t *handle) { (void)handle; }

static void drive(trials_t *self)
{
    uv_loop_init(&self->loop);
    self->begun_ms = uv_now(&self->loop);
    uv_signal_init(&self->loop, &self->term);
    uv_signal_init(&self->loop, &self->interrupt);
    uv_signal_init(&self->loop, &self->hangup);
    self->term.data = self->interrupt.data = self->hangup.data = self;
    uv_signal_start(&self->term, on_signal, SIGTERM);
    uv_signal_start(&self->interrupt, on_signal, SIGINT);
    if (!psd_hangup_is_ignored())
        uv_signal_start(&self->hangup, on_signal, SIGHUP);
    bool any = false;
    for (unsigned i = 0; i < self->n_slots; i++) {
        slot_t *slot = &self->slot[i];
        slot->child.owner = self;
        slot->child.said = on_said;
        slot->child.gone = on_gone;
        snprintf(slot->child.role, sizeof slot->child.role, "run %u", i + 1);
        any |= start_next(self, slot);
    }
    draw(self);
    if (any)
        uv_run(&self->loop, UV_RUN_DEFAULT);
    uv_close((uv_handle_t *)&self->term, ignore_close);
    uv_close((uv_handle_t *)&self->interrupt, ignore_close);
    uv_close((uv_handle_t *)&self->hangup, ignore_close);
    uv_run(&self->loop, UV_RUN_DEFAULT);
    uv_loop_close(&self->loop);
    wipe(self);
}

int psd_trials_run(const char *verb, const psd_options_t *options, psd_comparison_t *comparison, const char *directory,
                   psd_trials_t *result, psd_err_t *err)
{
    trials_t self = { .verb = verb,
                      .options = options,
                      .comparison = comparison,
                      .directory = directory,
                      .result = result,
                      .n_slots = (unsigned)psd_options_int(options, PSD_OPT_compare_jobs),
                      .terminal =
                          psd_progress_can_redraw(STDERR_FILENO) && strcmp(psd_options_string(options, PSD_OPT_progress), "log") };
    *result = (psd_trials_t){ .n = comparison->n * comparison->n_seeds };
    const int rc = psd_place_find(&self.place, err);
    if (rc)
        return rc;
    if (!(self.slot = calloc(self.n_slots, sizeof *self.slot)))
        return psd_err_set(err, PSD_ENOMEM, "no memory for %u runs at once", self.n_slots);
    drive(&self);
    free(self.slot);
    return PSD_OK;
}
