#include "deploy/psdctl/compare.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <uv.h>

#include "deploy/psdctl/child.h"
#include "deploy/psdctl/command.h"
#include "deploy/psdctl/comparison.h"
#include "deploy/psdctl/place.h"

typedef struct compare compare_t;

/* A place for one run at a time; there are compare.jobs of them. */
typedef struct slot {
    psd_child_t child;
    size_t run;         /* which one is here: seed number * contenders + contender */
    char progress[200]; /* what its last line of it says */
    char words[400];    /* the last that psdctl run itself said */
} slot_t;

struct compare {
    const psd_options_t *options;
    psd_comparison_t comparison;
    psd_place_t place;
    char directory[PSD_PLACE_DIRECTORY];
    int lock; /* the settings' file, held while we work here; -1: not open */
    bool json;
    uv_loop_t loop;
    uv_signal_t term, interrupt;
    slot_t *slot;
    unsigned n_slots, n_busy, n_lines; /* lines: of progress, drawn at the bottom of the terminal */
    size_t n_runs, next, n_done;       /* next: the first run that nobody has looked at */
    size_t n_made;                     /* of the done, those that were made since `begun_ms` */
    uint64_t begun_ms;
    bool terminal, stopping;
    int code; /* exit code so far */
};

/* -- what people see ---------------------------------------------------------------------------------------
 */

static const psd_contender_t *contender_of(const compare_t *self, size_t run)
{
    return &self->comparison.contender[run % self->comparison.n];
}

static unsigned seed_number_of(const compare_t *self, size_t run)
{
    return (unsigned)(run / self->comparison.n);
}

static uint64_t seed_of(const compare_t *self, size_t run)
{
    return self->comparison.first_seed + seed_number_of(self, run);
}

static void wipe(compare_t *self)
{
    for (; self->n_lines; self->n_lines--)
        fputs("\033[A\r\033[K", stderr);
}

/* Columns of the terminal, but for the last: a line that is wrapped could not be wiped. */
static int width(void)
{
    struct winsize size;
    return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1 ? size.ws_col - 1 : 79;
}

/* How many are done, and how long the others take at the pace so far. */
static void draw_total(const compare_t *self)
{
    char left[64] = "";
    const uint64_t more = self->n_runs - self->next + self->n_busy,
                   spent_ms = uv_now(&self->loop) - self->begun_ms;
    const uint64_t seconds = self->n_made ? spent_ms * more / self->n_made / 1000 : 0;
    if (self->n_made)
        snprintf(left, sizeof left, ", %" PRIu64 ":%02" PRIu64 " left", seconds / 60, seconds % 60);
    fprintf(stderr, "%zu of %zu runs are done%s\n", self->n_done, self->n_runs, left);
}

static void draw(compare_t *self)
{
    char line[PSD_RULE_TEXT + 240];
    if (!self->terminal || !self->n_busy)
        return;
    wipe(self);
    for (unsigned i = 0; i < self->n_slots; i++) {
        const slot_t *slot = &self->slot[i];
        if (!psd_child_is_here(&slot->child))
            continue;
        snprintf(line, sizeof line, "%s seed %" PRIu64 "  %s", contender_of(self, slot->run)->label,
                 seed_of(self, slot->run), slot->progress);
        fprintf(stderr, "%.*s\n", width(), line);
        self->n_lines++;
    }
    draw_total(self);
    self->n_lines++;
}

static void say(compare_t *self, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A line that stays. */
static void say(compare_t *self, const char *format, ...)
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
static void name_run(const compare_t *self, size_t run, char out[PSD_RULE_TEXT + 80])
{
    snprintf(out, PSD_RULE_TEXT + 80, "run=%zu of=%zu optimizer=\"%s\" seed=%" PRIu64, run + 1, self->n_runs,
             contender_of(self, run)->label, seed_of(self, run));
}

static void say_done(compare_t *self, size_t run)
{
    const psd_outcome_t *o = &contender_of(self, run)->outcome[seed_number_of(self, run)];
    char name[PSD_RULE_TEXT + 80];
    name_run(self, run, name);
    if (o->diverged)
        say(self, "compare.done %s outcome=diverged steps=%" PRIu64, name, o->steps);
    else
        say(self, "compare.done %s outcome=done %s=%.6g seconds=%.2f", name, o->metric, o->final, o->seconds);
}

/* Keep the first failure's code. */
static void note_code(compare_t *self, int code)
{
    if (!self->code)
        self->code = code;
}

/* -- settings ----------------------------------------------------------------------------------------------
 */

/* Options that change neither what is trained nor how it is measured; more rules and more seeds may be added
 * too. All others, future ones included, must be those of the runs that are here already. */
static bool is_setting(const psd_option_t *row)
{
    static const char *const others[] = { "optimizer",    "seed",          "run.dir",    "save",
                                          "trace",        "progress",      "log.level",  "progress_interval",
                                          "log.format",   "listen",        "advertise",  "join",
                                          "join_timeout", "status.listen", "restarts",   "worker.id",
                                          "worker.name",  "server.index",  "stop.target" };
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (!strcmp(row->key, others[i]))
            return false;
    return strncmp(row->key, "compare.", 8) != 0 && strncmp(row->key, "checkpoint.", 11) != 0;
}

static json_t *make_settings(const psd_options_t *options)
{
    json_t *settings = json_object();
    const psd_option_t *row;
    for (size_t i = 0; (row = psd_options_row(i)); i++)
        if (is_setting(row))
            json_object_set_new(settings, row->key, json_string(psd_options_text(options, row->key)));
    json_object_set_new(settings, "version of psd", json_string(PSD_VERSION));
    return settings;
}

/* Every difference, in one sentence. */
static int compare_settings(const compare_t *self, const json_t *before, const json_t *now, psd_err_t *err)
{
    const char *key;
    json_t *value;
    char list[360] = "";
    json_object_foreach((json_t *)(uintptr_t)now, key, value)
    {
        const char *old = json_string_value(json_object_get(before, key));
        const size_t used = strlen(list);
        if (!old || strcmp(old, json_string_value(value)) != 0)
            snprintf(list + used, sizeof list - used, "%s%s was \"%.60s\" and is \"%.60s\"", used ? ", " : "",
                     key, old ? old : "", json_string_value(value));
    }
    return *list ? psd_err_set(err, PSD_ECONFIG, "%s holds runs of another job: %s; set run.dir to another",
                               self->directory, list)
                 : PSD_OK;
}

/* The directory is ours for as long as its settings are open and locked. */
static int open_settings(compare_t *self, psd_err_t *err)
{
    char path[PATH_MAX];
    json_error_t why;
    snprintf(path, sizeof path, "%s/runs", self->directory);
    int rc = psd_place_make(path, err);
    if (rc)
        return rc;
    snprintf(path, sizeof path, "%s/settings.json", self->directory);
    self->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (self->lock < 0)
        return psd_err_set(err, PSD_EIO, "cannot write %s: %s; set run.dir to another", path,
                           strerror(errno));
    if (flock(self->lock, LOCK_EX | LOCK_NB))
        return psd_err_set(err, PSD_EUNAVAILABLE,
                           "another psdctl compare works in %s; wait for it, or set run.dir",
                           self->directory);
    const off_t n_bytes = lseek(self->lock, 0, SEEK_END);
    lseek(self->lock, 0, SEEK_SET);
    json_t *now = make_settings(self->options),
           *before = n_bytes > 0 ? json_loadfd(self->lock, 0, &why) : NULL;
    if (before)
        rc = compare_settings(self, before, now, err);
    else if (n_bytes > 0)
        rc = psd_err_set(err, PSD_EDATA, "%s:%d: %s; remove the directory, or set run.dir", path, why.line,
                         why.text);
    else if (json_dumpfd(now, self->lock, JSON_INDENT(2) | JSON_SORT_KEYS))
        rc = psd_err_set(err, PSD_EIO, "cannot write %s: %s", path, strerror(errno));
    json_decref(before);
    json_decref(now);
    return rc;
}

/* -- runs --------------------------------------------------------------------------------------------------
 */

/* Where a run is kept when it is finished, and, with ".part", while it is not. */
static void name_directory(const compare_t *self, size_t run, const char *suffix, char out[PATH_MAX])
{
    char name[PSD_CELL];
    psd_comparison_run_name(&self->comparison, run % self->comparison.n, seed_number_of(self, run), name);
    snprintf(out, PATH_MAX, "%s/runs/%s%s", self->directory, name, suffix);
}

static int take(compare_t *self, size_t run, const char *directory, psd_err_t *err)
{
    return psd_comparison_take(&self->comparison, run % self->comparison.n, seed_number_of(self, run),
                               directory, err);
}

static void stop_all(compare_t *self, int number)
{
    self->stopping = true;
    for (unsigned i = 0; i < self->n_slots; i++)
        psd_child_kill(&self->slot[i].child, number);
}

/* What the other runs would say again. */
static bool is_hopeless(int code)
{
    static const int codes[] = { PSD_EUSAGE, PSD_EDATA, PSD_ENOINPUT, PSD_ECONFIG };
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
        if (code == psd_err_exit_code(codes[i]))
            return true;
    return false;
}

static void fail(compare_t *self, const slot_t *slot, int code, const char *why)
{
    char name[PSD_RULE_TEXT + 80], directory[PATH_MAX];
    name_run(self, slot->run, name);
    name_directory(self, slot->run, ".part", directory);
    say(self, "compare.failed %s code=%d log=%s/run.log reason=\"%s\"", name, code, directory, why);
    note_code(self, code);
    if (is_hopeless(code))
        stop_all(self, SIGTERM);
}

static bool start_next(compare_t *self, slot_t *slot);

/* Its directory gets its name when all that a good end leaves has been read from it. */
static void finish(compare_t *self, slot_t *slot)
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
        say(self, "psdctl compare: %s", err.text);
        note_code(self, failed);
        stop_all(self, SIGTERM);
    } else if (rc || (code && !o->diverged)) {
        psd_child_describe_end(child, end, sizeof end);
        fail(self, slot, code ? code : psd_err_exit_code(rc),
             code && *slot->words ? slot->words
             : code               ? end
                                  : err.text);
    } else if (rename(part, kept)) {
        fail(self, slot, psd_err_exit_code(PSD_EIO), strerror(errno));
    } else {
        self->n_done++;
        self->n_made++;
        say_done(self, slot->run);
    }
}

static void on_gone(psd_child_t *child)
{
    slot_t *slot = (slot_t *)child;
    compare_t *self = child->owner;
    self->n_busy--;
    if (!self->stopping || (!child->code && !child->signal))
        finish(self, slot);
    if (!start_next(self, slot) && !self->n_busy)
        uv_stop(&self->loop);
    draw(self);
}

/* A line of progress for a terminal, where there is room for the half of it. */
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
    compare_t *self = child->owner;
    char name[PSD_RULE_TEXT + 80];
    if (on_stderr && !strncmp(line, self_said, sizeof self_said - 1) && !*slot->words)
        snprintf(slot->words, sizeof slot->words, "%.*s", (int)sizeof slot->words - 1,
                 line + sizeof self_said - 1);
    if (!on_stderr || strncmp(line, "step=", 5) != 0)
        return;
    name_run(self, slot->run, name);
    shorten(line, slot->progress, sizeof slot->progress);
    if (self->terminal)
        draw(self);
    else
        say(self, "compare.progress %s %s", name, line);
}

/* A run of an earlier start of ours that is whole is not made again; one that is not is removed. False when
 * it is to be made. */
static bool is_kept(compare_t *self, size_t run)
{
    char kept[PATH_MAX];
    psd_err_t err = { 0 };
    name_directory(self, run, "", kept);
    if (access(kept, F_OK) != 0)
        return false;
    int rc = take(self, run, kept, &err);
    if (rc == PSD_EDIVERGED) {
        say(self, "psdctl compare: %s", err.text);
        note_code(self, psd_err_exit_code(rc));
        stop_all(self, SIGTERM);
        return true;
    }
    if (rc) {
        say(self, "compare.again directory=%s reason=\"%s\"", kept, err.text);
        psd_place_remove(kept, NULL); /* else the new one cannot take its name, and says so */
        return false;
    }
    self->n_done++;
    return true;
}

static int start(compare_t *self, slot_t *slot, psd_err_t *err)
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
                                                    .short_progress = self->terminal });
    snprintf(log, sizeof log, "%.*s/run.log", (int)sizeof log - 16, part);
    slot->words[0] = '\0';
    slot->progress[0] = '\0';
    self->n_busy++;
    rc = psd_child_start(&slot->child, &self->loop, self->place.self, command.word, log);
    psd_command_clear(&command);
    return rc ? psd_err_set(err, PSD_ESYSTEM, "cannot start psdctl run: %s", uv_strerror(rc)) : PSD_OK;
}

/* The next run that is still to be made; false when there is none. */
static bool start_next(compare_t *self, slot_t *slot)
{
    psd_err_t err = { 0 };
    while (!self->stopping && self->next < self->n_runs) {
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
    compare_t *self = handle->data;
    (void)number;
    note_code(self, psd_err_exit_code(PSD_ESTOPPED));
    if (!self->stopping)
        say(self, "psdctl compare: stopping; once more to stop at once");
    stop_all(self, self->stopping ? SIGKILL : SIGTERM);
}

static void ignore_close(uv_handle_t *handle) { (void)handle; }

static void drive(compare_t *self)
{
    uv_loop_init(&self->loop);
    self->begun_ms = uv_now(&self->loop);
    uv_signal_init(&self->loop, &self->term);
    uv_signal_init(&self->loop, &self->interrupt);
    self->term.data = self->interrupt.data = self;
    uv_signal_start(&self->term, on_signal, SIGTERM);
    uv_signal_start(&self->interrupt, on_signal, SIGINT);
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
    uv_run(&self->loop, UV_RUN_DEFAULT);
    uv_loop_close(&self->loop);
    wipe(self);
}

/* -- the end -----------------------------------------------------------------------------------------------
 */

/* A file of the directory, whole or as it was. */
static int write_file(const compare_t *self, const char *name,
                      bool (*write)(const compare_t *self, FILE *out), psd_err_t *err)
{
    char path[PATH_MAX], temporary[PATH_MAX + 8];
    snprintf(path, sizeof path, "%s/%s", self->directory, name);
    snprintf(temporary, sizeof temporary, "%s.tmp", path);
    FILE *file = fopen(temporary, "we");
    bool good = file && write(self, file);
    good = file && fclose(file) == 0 && good;
    if (!good || rename(temporary, path))
        return psd_err_set(err, PSD_EIO, "cannot write %s: %s", path, strerror(errno));
    return PSD_OK;
}

static bool write_json(const compare_t *self, FILE *out)
{
    json_t *json = psd_comparison_json(&self->comparison);
    const bool good =
        json && json_dumpf(json, out, JSON_INDENT(1) | JSON_REAL_PRECISION(9)) == 0 && fputc('\n', out) > 0;
    json_decref(json);
    return good;
}

static bool write_page(const compare_t *self, FILE *out)
{
    return psd_comparison_page(&self->comparison, out);
}

static int conclude(compare_t *self, psd_err_t *err)
{
    int rc = psd_comparison_judge(&self->comparison, err);
    rc = rc ? rc : write_file(self, "compare.json", write_json, err);
    rc = rc ? rc : write_file(self, "report.html", write_page, err);
    if (rc)
        return rc;
    if (self->json)
        write_json(self, stdout);
    else
        psd_comparison_print(&self->comparison, stdout);
    if (!self->json)
        printf("kept in %s: report.html, compare.json\n", self->directory);
    return PSD_OK;
}

/* -- the command line --------------------------------------------------------------------------------------
 */

/* Short names of this verb's own options. */
static const struct alias {
    const char *word, *flag;
    const char *preset; /* when no value follows; NULL: one must */
    bool takes_many;    /* all words up to the next option are its values */
} aliases[] = {
    { "--optimizers", "--compare-optimizers", NULL, true },
    { "--seeds", "--compare-seeds", NULL, false },
    { "--lr-sweep", "--compare-lr-sweep", "0.1,0.3,1,3,10", false },
    { "--target", "--compare-target", NULL, false },
    { "--jobs", "--compare-jobs", NULL, false },
};

static void print_help(void)
{
    puts("Usage: psdctl compare JOB --optimizers RULE... [options]\n"
         "Train a job with several optimizers, each with several seeds, and compare what comes of it.\n"
         "\n"
         "  --optimizers RULE...   update rules, each in quotes: 'sgd(lr=0.1)' 'adam(lr=1e-3)'; the first is "
         "the\n"
         "                         baseline. Default: the job file's compare: {optimizers: ...}\n"
         "  --seeds N              train each with seed, seed + 1, ..., N of them [3]\n"
         "  --lr-sweep [X,X,...]   train each with its learning rate times each of these [0.1,0.3,1,3,10]\n"
         "  --target X             metric whose steps and time are told [where the baseline's worst seed "
         "ends]\n"
         "  --jobs N               so many runs at once; they slow each other down [1]\n"
         "  --json                 the result as JSON instead of a table\n"
         "  --run-dir DIR          where all is kept [runs/JOB-compare-TIME]; with a directory of before, go "
         "on there\n"
         "\n"
         "All other options are those of psdctl run: see psdctl help run.");
}

static const struct alias *find_alias(const char *word, const char **value)
{
    const size_t n = strcspn(word, "=");
    *value = word[n] ? word + n + 1 : NULL;
    for (size_t i = 0; i < sizeof aliases / sizeof *aliases; i++)
        if (strlen(aliases[i].word) == n && !strncmp(word, aliases[i].word, n))
            return &aliases[i];
    return NULL;
}

/* Whether a word may be the value of --lr-sweep, and not the job file. */
static bool is_number(const char *word) { return *word && strspn(word, "0123456789.,eE-+") == strlen(word); }

/* The i-th word and what belongs to it as one flag of the option table; moves `*i` to the last word used. The
 * caller frees it; NULL with `err` set. */
static char *spell_out(const struct alias *alias, const char *value, int argc, char **argv, int *i,
                       psd_err_t *err)
{
    char *text = NULL;
    size_t n;
    FILE *out = open_memstream(&text, &n);
    if (!out) {
        psd_err_set(err, PSD_ENOMEM, "no memory for the command line");
        return NULL;
    }
    fprintf(out, "%s=", alias->flag);
    bool any = value;
    fputs(value ? value : "", out);
    while (!value && *i + 1 < argc && argv[*i + 1][0] != '-' && (alias->takes_many || !any) &&
           (!alias->preset || is_number(argv[*i + 1]))) {
        fprintf(out, "%s%s", any ? ";" : "", argv[++*i]);
        any = true;
    }
    fputs(!any && alias->preset ? alias->preset : "", out);
    fclose(out);
    if (any || alias->preset)
        return text;
    psd_err_set(err, PSD_EUSAGE, "%s needs %s", alias->word,
                alias->takes_many ? "rules, such as 'sgd(lr=0.1)'" : "a value");
    free(text);
    return NULL;
}

/* Words as the option table takes them. */
static int translate(compare_t *self, int argc, char **argv, char **words, int *n_words, psd_err_t *err)
{
    *n_words = 0;
    for (int i = 0; i < argc; i++) {
        const char *value;
        const struct alias *alias = i ? find_alias(argv[i], &value) : NULL;
        if (i && !strcmp(argv[i], "--json")) {
            self->json = true;
            continue;
        }
        char *word = alias ? spell_out(alias, value, argc, argv, &i, err) : strdup(argv[i]);
        if (!word)
            return err->code ? err->code : psd_err_set(err, PSD_ENOMEM, "no memory for the command line");
        words[(*n_words)++] = word;
    }
    return PSD_OK;
}

static bool asks_for_help(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h"))
            return true;
    return false;
}

static int load(compare_t *self, psd_options_t *options, int argc, char **argv, psd_err_t *err)
{
    char **words = calloc((size_t)argc + 1, sizeof *words);
    int n = 0, rc = words ? PSD_OK : psd_err_set(err, PSD_ENOMEM, "no memory for the command line");
    rc = rc ? rc : translate(self, argc, argv, words, &n, err);
    rc = rc ? rc : psd_options_load(options, n, words, err);
    for (int i = 1; i < n; i++)
        free(words[i]);
    if (n)
        free(words[0]);
    free(words);
    return rc;
}

static int prepare(compare_t *self, psd_err_t *err)
{
    const psd_options_t *o = self->options;
    int rc = psd_comparison_begin(&self->comparison, o, err);
    if (!rc && !psd_options_uint(o, "stop.steps") && !(psd_options_double(o, "stop.epochs") > 0))
        rc = psd_err_set(err, PSD_ECONFIG, "nothing ends the runs: set stop.epochs or stop.steps");
    rc = rc ? rc : psd_place_find(&self->place, err);
    if (rc)
        return rc;
    psd_place_choose(o, "-compare", self->directory);
    self->n_runs = self->comparison.n * self->comparison.n_seeds;
    self->n_slots = (unsigned)psd_options_int(o, "compare.jobs");
    self->terminal = psd_place_can_redraw(o);
    if (!(self->slot = calloc(self->n_slots, sizeof *self->slot)))
        return psd_err_set(err, PSD_ENOMEM, "no memory for %u runs at once", self->n_slots);
    return open_settings(self, err);
}

static int run(compare_t *self, psd_err_t *err)
{
    int rc = prepare(self, err);
    if (rc)
        return rc;
    drive(self);
    if (self->stopping) {
        fprintf(stderr, "psdctl compare: %zu of %zu runs are kept; go on with --run-dir=%s\n", self->n_done,
                self->n_runs, self->directory);
        return PSD_OK;
    }
    return conclude(self, err);
}

int psd_ctl_compare(int argc, char **argv)
{
    psd_err_t err = { 0 };
    if (asks_for_help(argc, argv)) {
        print_help();
        return 0;
    }
    psd_options_t *options = psd_options_new(PSD_PROGRAM_CTL | PSD_PROGRAM_COMPARE);
    if (!options)
        return psd_err_exit_code(PSD_ENOMEM);
    compare_t self = { .options = options, .lock = -1 };
    int rc = load(&self, options, argc, argv, &err);
    if (rc < 0 && *psd_options_complaints(options))
        snprintf(err.text, sizeof err.text, "%s", psd_options_complaints(options));
    if (rc == PSD_OK)
        rc = run(&self, &err);
    if (rc < 0) {
        fprintf(stderr, "psdctl compare: %s\n", err.text);
        self.code = psd_err_exit_code(rc);
    }
    psd_comparison_clear(&self.comparison);
    free(self.slot);
    if (self.lock >= 0)
        close(self.lock);
    psd_options_destroy(&options);
    return self.code;
}
