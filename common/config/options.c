#include "common/config/options.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/config/contradictions.h"
#include "common/config/flags.h"
#include "common/config/jobfile.h"
#include "common/config/option_page.h"
#include "common/base/words.h"

/* The source of a value; a later one wins. */
typedef enum { FROM_TABLE, FROM_FILE, FROM_ENVIRONMENT, FROM_FLAG } rank_t;

typedef struct value {
    psd_option_value_t is;
    char *origin;
    rank_t rank;
} value_t;

struct psd_options {
    unsigned program; /* a mask of psd_program_t */
    const char *name; /* argv[0] without its directory */
    value_t value[PSD_N_OPTIONS];
    char *file;          /* the job file given on the command line */
    bool file_is_stream; /* it can be read only once: a pipe, or standard input */
    char *folder;        /* base of the job file's relative paths, with a slash at its end; NULL: the working directory */
    const char *reading; /* prefix of errors in the job file */
    char *complaints;    /* one per line */
    size_t n_complaints;
    bool is_starved; /* memory ran out: values may be missing, and complaints do not report errors of users */
};

enum { MAX_COMPLAINTS = 100 };

extern char **environ;

/* -- complaints -------------------------------------------------------------------------------------------- */

static void complain(psd_options_t *self, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void complain(psd_options_t *self, const char *format, ...)
{
    char sentence[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(sentence, sizeof sentence, format, args);
    va_end(args);
    for (char *p = sentence; *p; p++) /* messages quote what users typed, without control bytes */
        if ((unsigned char)*p < ' ' || *p == 0x7f)
            *p = '?';
    if (self->n_complaints++ >= MAX_COMPLAINTS)
        return;
    size_t used = self->complaints ? strlen(self->complaints) : 0;
    char *more = realloc(self->complaints, used + strlen(sentence) + 2);
    self->is_starved = self->is_starved || !more;
    if (!more)
        return;
    self->complaints = more;
    snprintf(more + used, strlen(sentence) + 2, "%s%s", used ? "\n" : "", sentence);
}

const char *psd_options_complaints(const psd_options_t *self) { return self->complaints ? self->complaints : ""; }

/* Copy the complaints, if any, to `err`, with `code`: whole lines, as many as fit. If memory ran out, which may not happen at
 * the next start, nothing that was read counts. */
static int report(const psd_options_t *self, int code, psd_err_t *err)
{
    if (self->is_starved)
        return psd_err_set(err, PSD_ENOMEM, "no memory to read the options");
    if (!self->n_complaints)
        return PSD_OK;
    enum { ROOM = sizeof err->text - 24 };
    const char *all = psd_options_complaints(self);
    size_t n = strlen(all), lines = 0;
    if (n <= ROOM)
        return psd_err_set(err, code, "%s", all);
    for (n = ROOM; n > 0 && all[n] != '\n'; n--)
        ;
    for (size_t i = 0; i <= n; i++)
        lines += all[i] == '\n';
    if (n == 0)
        return psd_err_set(err, code, "%.*s", (int)ROOM, all);
    return psd_err_set(err, code, "%.*s\nand %zu more", (int)n, all, self->n_complaints - lines);
}

/* -- values ------------------------------------------------------------------------------------------------ */

static void value_clear(value_t *value)
{
    psd_option_clear(&value->is);
    free(value->origin);
    *value = (value_t){ 0 };
}

/* Set an option, unless a stronger source has set it. PSD_ECONFIG, with `why`, when the value is invalid; PSD_ENOMEM. */
static int set_value(psd_options_t *self, const psd_option_t *row, const char *text, rank_t rank, const char *origin,
                     char why[PSD_OPTION_WHY])
{
    value_t value = { .rank = rank }, *old = &self->value[psd_option_id(row)];
    int rc = psd_option_read(row, text, &value.is, why);
    if (!rc && !(value.origin = strdup(origin)))
        rc = PSD_ENOMEM;
    if (rc || rank < old->rank) {
        value_clear(&value);
        return rc;
    }
    value_clear(old);
    *old = value;
    return PSD_OK;
}

/* The same, and complain of what is none, from `source`. */
static void take_value(psd_options_t *self, const psd_option_t *row, const char *text, rank_t rank, const char *origin,
                       const char *source)
{
    char why[PSD_OPTION_WHY];
    const int rc = set_value(self, row, text, rank, origin, why);
    if (rc == PSD_ENOMEM)
        self->is_starved = true;
    else if (rc)
        complain(self, "%s: %s", source, why);
}

/* -- job file ---------------------------------------------------------------------------------------------- */

static psd_key_t on_key(void *arg, const char *path)
{
    (void)arg;
    const size_t n = strlen(path);
    const psd_option_t *row = psd_option_find(path);
    if (row)
        return row->type == PSD_OPTION_GROUPS ? PSD_KEY_GROUPS : row->type == PSD_OPTION_TEXTS ? PSD_KEY_TEXTS : PSD_KEY_VALUE;
    for (size_t i = 0; (row = psd_option_at(i)); i++)
        if (strncmp(row->key, path, n) == 0 && row->key[n] == '.')
            return PSD_KEY_SECTION;
    return PSD_KEY_UNKNOWN;
}

static void on_unknown(void *arg, const char *path, size_t line, size_t column)
{
    psd_options_t *self = arg;
    char nearest[64];
    psd_option_nearest(path, nearest, sizeof nearest);
    complain(self, "%s:%zu:%zu: unknown key %s%s%s%s", self->reading, line, column, path,
             *nearest ? "; did you mean " : "; --help lists them all", nearest, *nearest ? "?" : "");
}

static void on_complaint(void *arg, size_t line, size_t column, const char *sentence)
{
    psd_options_t *self = arg;
    complain(self, "%s:%zu:%zu: %s", self->reading, line, column, sentence);
}

static bool wants_plain(psd_option_type_t type)
{
    return type == PSD_OPTION_INT || type == PSD_OPTION_UINT64 || type == PSD_OPTION_SIZE || type == PSD_OPTION_DOUBLE ||
           type == PSD_OPTION_BOOL;
}

/* The text of a value from the job file, with a relative path made relative to the file's folder; NULL without memory. */
static char *place(const psd_options_t *self, const psd_option_t *row, const char *text)
{
    const char *path = psd_option_path(row, text);
    const bool may_be_key = row->type == PSD_OPTION_KEY && *text && !path; /* or a file of that name */
    char *placed = NULL;
    path = may_be_key ? text : path;
    if (!self->folder || !path || *path == '/')
        return strdup(text);
    if (asprintf(&placed, "%.*s%s%s", (int)(path - text), text, self->folder, path) < 0)
        return NULL;
    if (may_be_key && access(placed, F_OK) != 0)
        memcpy(placed, text, strlen(text) + 1);
    return placed;
}

static void place_value(psd_options_t *self, const psd_option_t *row, const char *text, const char *origin)
{
    char *placed = place(self, row, text);
    if (placed)
        take_value(self, row, placed, FROM_FILE, origin, origin);
    else
        self->is_starved = true;
    free(placed);
}

static void on_value(void *arg, const char *path, const char *text, psd_form_t form, size_t line, size_t column)
{
    psd_options_t *self = arg;
    const psd_option_t *row = psd_option_find(path);
    const psd_option_words_t *words = psd_option_words(row->type);
    const bool is_list = psd_option_is_list(row->type);
    char origin[300];
    snprintf(origin, sizeof origin, "%s:%zu:%zu", self->reading, line, column);
    if (form == PSD_FORM_LIST && !is_list)
        complain(self, "%s: %s takes one value, not a list", origin, path);
    else if (form != PSD_FORM_LIST && is_list)
        complain(self, "%s: %s takes a list; write %s", origin, path, words->example);
    else if (form == PSD_FORM_QUOTED && wants_plain(row->type))
        complain(self, "%s: %s is text in quotes; write the %s without", origin, path, words->what);
    else
        place_value(self, row, text, origin);
}

int psd_options_load_text(psd_options_t *self, const char *name, const void *text, size_t n_bytes, psd_err_t *err)
{
    const psd_jobfile_visitor_t visitor = { self, on_key, on_unknown, on_value, on_complaint };
    size_t before = self->n_complaints;
    self->reading = name;
    if (psd_jobfile_read(text, n_bytes, &visitor) == PSD_ENOMEM)
        self->is_starved = true;
    return self->is_starved || self->n_complaints > before ? report(self, PSD_ECONFIG, err) : PSD_OK;
}

/* Note the file's folder, the base of relative paths. A job file from a pipe or standard input has none. */
static bool find_folder(psd_options_t *self, FILE *file)
{
    struct stat facts;
    const char *slash = strrchr(self->file, '/');
    const bool is_descriptor = !strcmp(self->file, "-") || !strcmp(self->file, "/dev/stdin") ||
                               !strncmp(self->file, "/dev/fd/", 8) || !strncmp(self->file, "/proc/", 6);
    self->file_is_stream = is_descriptor || fstat(fileno(file), &facts) || !S_ISREG(facts.st_mode);
    if (!slash || is_descriptor || (slash == self->file + 1 && *self->file == '.'))
        return true;
    self->folder = strndup(self->file, (size_t)(slash - self->file) + 1);
    return self->folder;
}

static int load_file(psd_options_t *self, psd_err_t *err)
{
    char *text = malloc(PSD_JOBFILE_MAX_BYTES + 1);
    errno = 0;
    FILE *file = strcmp(self->file, "-") == 0 ? fdopen(dup(STDIN_FILENO), "rb") : fopen(self->file, "rb");
    self->is_starved |= !text || (!file && errno == ENOMEM) || (file && !find_folder(self, file));
    size_t n = file && !self->is_starved ? fread(text, 1, PSD_JOBFILE_MAX_BYTES + 1, file) : 0;
    int rc = self->is_starved        ? report(self, PSD_ECONFIG, err)
             : !file || ferror(file) ? psd_err_set(err, PSD_ENOINPUT, "cannot read job file %s: %s%s", self->file, strerror(errno),
                                                   errno == EISDIR ? "; name the job's YAML file" : "")
                                     : psd_options_load_text(self, self->file, text, n, err);
    if (file)
        fclose(file);
    free(text);
    return rc;
}

/* -- environment ------------------------------------------------------------------------------------------- */

/* Kubernetes puts PSD_SERVICE_HOST, PSD_PORT_7470_TCP and similar variables into every pod of a service called psd. */
static bool is_service_link(const char *variable)
{
    size_t n = strlen(variable);
    return strstr(variable, "_SERVICE_HOST") || strstr(variable, "_PORT_") || (n > 5 && strcmp(variable + n - 5, "_PORT") == 0);
}

/* Whether a variable that begins with PSD_ is meant for options. The Python package finds the library by PSD_LIBRARY. */
static bool is_option(const char *variable) { return !is_service_link(variable) && strcmp(variable, "PSD_LIBRARY"); }

static void take_variable(psd_options_t *self, const char *variable, const char *text)
{
    char name[PSD_OPTION_TEXT], source[PSD_OPTION_TEXT + 16];
    psd_nearest_t nearest = { 0 };
    const psd_option_t *row;
    for (size_t i = 0; (row = psd_option_at(i)); i++) {
        psd_option_variable(row->key, name, sizeof name);
        if (strcmp(variable, name) == 0) {
            snprintf(source, sizeof source, "environment %s", name);
            take_value(self, row, text, FROM_ENVIRONMENT, name, source);
            return;
        }
        psd_nearest_consider(&nearest, variable + strlen("PSD_"), name + strlen("PSD_"));
    }
    if (is_option(variable))
        complain(self, "environment: %.80s is not an option%s%s%s", variable, *nearest.word ? "; did you mean PSD_" : "; unset it",
                 nearest.word, *nearest.word ? "?" : "");
}

/* The name of the variable in an entry of the environment, up to its "="; false if it is none of psd. */
static bool is_of_psd(const char *entry, char variable[256])
{
    const size_t n = strcspn(entry, "=");
    snprintf(variable, 256, "%.*s", (int)n, entry);
    return strncmp(entry, "PSD_", 4) == 0 && entry[n] == '=';
}

static void load_environment(psd_options_t *self)
{
    char variable[256];
    for (char **entry = environ; entry && *entry; entry++)
        if (is_of_psd(*entry, variable))
            take_variable(self, variable, *entry + strcspn(*entry, "=") + 1);
}

/* -- command line ------------------------------------------------------------------------------------------ */

static void set_file(psd_options_t *self, const char *path)
{
    if (self->file)
        complain(self, "two job files, %s and %s; give one", self->file, path);
    else
        self->is_starved |= !(self->file = strdup(path));
}

/* Whether the words after the last wrong flag may be its value: "--leese 3s", unlike "--leese=3s". */
static bool may_have_value(const psd_flags_t *flags) { return !strchr(flags->argv[flags->first], '='); }

static bool is_number(const char *word) { return word[0] == '-' && word[1] && strchr(".0123456789", word[1]); }

/* Flags override all other sources and name the job file, so they are read first. Words after a wrong flag are skipped if they may
 * belong to it. Returns 1 after help; otherwise PSD_OK, with complaints. */
static int load_argv(psd_options_t *self, int argc, char *const *argv)
{
    psd_flags_t flags = { .name = self->name, .programs = self->program, .argc = argc, .argv = argv, .next = 1 };
    bool skips = false;
    for (psd_flags_kind_t kind; !self->is_starved && (kind = psd_flags_next(&flags)) != PSD_FLAGS_END;) {
        if (skips && (kind == PSD_FLAGS_WORD || (kind == PSD_FLAGS_WRONG && is_number(argv[flags.first]))))
            continue;
        skips = kind == PSD_FLAGS_WRONG && may_have_value(&flags);
        if (kind == PSD_FLAGS_HELP && !self->n_complaints)
            return psd_option_help(self->name, self->program, flags.value), 1;
        if (kind == PSD_FLAGS_VERSION && !self->n_complaints)
            return printf("%s %s\n", self->name, PSD_VERSION), 1;
        if (kind == PSD_FLAGS_ROW)
            take_value(self, flags.row, flags.value ? flags.value : "true", FROM_FLAG, flags.flag, flags.flag);
        if (kind == PSD_FLAGS_WRONG)
            complain(self, "%s", flags.why);
        if (kind == PSD_FLAGS_WORD || kind == PSD_FLAGS_CONFIG)
            set_file(self, flags.value);
    }
    return PSD_OK;
}

static const psd_option_value_t *value_at(const void *arg, psd_option_id_t id)
{
    const psd_options_t *self = arg;
    return &self->value[id].is;
}

/* Check for contradictions, once each value is valid. */
static void compare_values(psd_options_t *self)
{
    const psd_values_t values = { self->file && !self->file_is_stream ? self->file : "", self, value_at };
    psd_option_id_t id;
    char why[PSD_OPTION_WHY];
    int rc;
    for (size_t i = 0; (rc = psd_contradiction(&values, i, &id, why)) >= 0; i++)
        if (rc)
            complain(self, "%s: %s", psd_options_origin(self, id), why);
}

static void forget_complaints(psd_options_t *self)
{
    free(self->complaints);
    self->complaints = NULL;
    self->n_complaints = 0;
}

int psd_options_change(psd_options_t *self, psd_option_id_t id, const char *text, const char *origin, psd_err_t *err)
{
    assert(!self->n_complaints);
    take_value(self, psd_option_at(id), text, FROM_FLAG, origin, origin);
    if (!self->n_complaints)
        compare_values(self);
    const int rc = report(self, PSD_ECONFIG, err);
    forget_complaints(self);
    return rc;
}

/* Set from the job file and the environment what no flag has set, and report all that is wrong: PSD_EUSAGE if a flag is. */
static int load_rest(psd_options_t *self, psd_err_t *err)
{
    const int code = self->n_complaints ? PSD_EUSAGE : PSD_ECONFIG;
    const int rc = self->file ? load_file(self, err) : PSD_OK;
    if (rc && rc != PSD_ECONFIG && code == PSD_ECONFIG)
        return rc;
    if (rc == PSD_ENOINPUT)
        complain(self, "%s", err->text);
    load_environment(self);
    if (!self->n_complaints)
        compare_values(self);
    return report(self, code, err);
}

/* Whether the environment sets an option. */
static bool is_told_by_environment(void)
{
    char variable[256];
    for (char **entry = environ; entry && *entry; entry++)
        if (is_of_psd(*entry, variable) && is_option(variable))
            return true;
    return false;
}

int psd_options_load(psd_options_t *self, int argc, char *const *argv, psd_err_t *err)
{
    const char *slash = strrchr(argv[0], '/');
    self->name = slash ? slash + 1 : argv[0];
    if (argc == 1 && !is_told_by_environment()) {
        psd_option_brief(stderr, self->name, self->program);
        return psd_err_set(err, PSD_EUSAGE, "no job: give a job file, or options");
    }
    const int rc = load_argv(self, argc, argv);
    return rc ? rc : load_rest(self, err);
}

int psd_options_load_job(psd_options_t *self, const char *file, psd_err_t *err)
{
    self->name = "psd";
    if (file)
        set_file(self, file);
    return load_rest(self, err);
}

/* -- the object -------------------------------------------------------------------------------------------- */

psd_options_t *psd_options_new(unsigned program)
{
    psd_options_t *self = calloc(1, sizeof *self);
    const psd_option_t *row;
    if (!self)
        return NULL;
    self->program = program;
    for (size_t i = 0; (row = psd_option_at(i)); i++) {
        char why[PSD_OPTION_WHY] = "";
        const int rc = set_value(self, row, row->preset, FROM_TABLE, "default", why);
        if (rc) {
            assert(rc == PSD_ENOMEM); /* otherwise the table is wrong */
            psd_options_destroy(&self);
            return NULL;
        }
    }
    return self;
}

static bool copy_text(char **to, const char *text) { return !text || (*to = strdup(text)); }

psd_options_t *psd_options_copy(const psd_options_t *from)
{
    psd_options_t *self = psd_options_new(from->program);
    char why[PSD_OPTION_WHY];
    bool whole = self && copy_text(&self->file, from->file) && copy_text(&self->folder, from->folder);
    for (size_t i = 0; whole && i < PSD_N_OPTIONS; i++)
        whole = !set_value(self, psd_option_at(i), from->value[i].is.text, from->value[i].rank, from->value[i].origin, why);
    if (!whole) {
        psd_options_destroy(&self);
        return NULL;
    }
    self->name = from->name;
    self->file_is_stream = from->file_is_stream;
    return self;
}

void psd_options_destroy(psd_options_t **self_p)
{
    psd_options_t *self = *self_p;
    if (!self)
        return;
    for (size_t i = 0; i < PSD_N_OPTIONS; i++)
        value_clear(&self->value[i]);
    free(self->file);
    free(self->folder);
    free(self->complaints);
    free(self);
    *self_p = NULL;
}

const char *psd_options_file(const psd_options_t *self) { return self->file ? self->file : ""; }
bool psd_options_file_is_stream(const psd_options_t *self) { return self->file_is_stream; }

psd_option_id_t psd_options_stream(const psd_options_t *self)
{
    static const psd_option_id_t data[] = { PSD_OPT_data_train, PSD_OPT_data_labels, PSD_OPT_data_test, PSD_OPT_data_test_labels };
    for (size_t i = 0; i < sizeof data / sizeof *data; i++)
        if (psd_contradiction_is_stream(psd_option_at(data[i]), psd_options_text(self, data[i])))
            return data[i];
    return PSD_N_OPTIONS;
}

/* The value of an option of one of these types, or the code is wrong. */
static const value_t *value_of(const psd_options_t *self, psd_option_id_t id, unsigned type_mask)
{
    assert(type_mask >> psd_option_at(id)->type & 1);
    return &self->value[id];
}

#define ONE(type) (1u << PSD_OPTION_##type)

const char *psd_options_string(const psd_options_t *self, psd_option_id_t id)
{
    return value_of(self, id,
                    ONE(STRING) | ONE(RULE) | ONE(CODEC) | ONE(SCHEDULE) | ONE(GROUPS) | ONE(NAME) | ONE(WORD) | ONE(ENDPOINT) |
                        ONE(LISTEN) | ONE(PATH) | ONE(DATA) | ONE(KEY))
        ->is.text;
}

int64_t psd_options_int(const psd_options_t *self, psd_option_id_t id) { return value_of(self, id, ONE(INT))->is.i; }

uint64_t psd_options_uint(const psd_options_t *self, psd_option_id_t id)
{
    return value_of(self, id, ONE(UINT64) | ONE(SIZE))->is.u;
}

double psd_options_double(const psd_options_t *self, psd_option_id_t id) { return value_of(self, id, ONE(DOUBLE))->is.d; }
bool psd_options_bool(const psd_options_t *self, psd_option_id_t id) { return value_of(self, id, ONE(BOOL))->is.u; }
uint64_t psd_options_ms(const psd_options_t *self, psd_option_id_t id) { return value_of(self, id, ONE(DURATION))->is.u; }

const int64_t *psd_options_list(const psd_options_t *self, psd_option_id_t id, size_t *n)
{
    const psd_option_value_t *value = &value_of(self, id, ONE(LIST))->is;
    *n = value->n_list;
    return value->list;
}

const double *psd_options_numbers(const psd_options_t *self, psd_option_id_t id, size_t *n)
{
    const psd_option_value_t *value = &value_of(self, id, ONE(NUMBERS))->is;
    *n = value->n_list;
    return value->real;
}

const char *const *psd_options_texts(const psd_options_t *self, psd_option_id_t id, size_t *n)
{
    const psd_option_value_t *value = &value_of(self, id, ONE(TEXTS))->is;
    *n = value->n_list;
    return (const char *const *)value->item;
}

const char *psd_options_text(const psd_options_t *self, psd_option_id_t id) { return value_of(self, id, ~0u)->is.text; }
const char *psd_options_origin(const psd_options_t *self, psd_option_id_t id) { return value_of(self, id, ~0u)->origin; }
