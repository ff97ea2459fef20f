#include "deploy/psdctl/inspect/golden.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "common/config/number.h"
#include "common/optim/groups.h"

enum { LINE_MAX_BYTES = 32 * PSD_GOLDEN_N, TOKEN = 512 };

struct psd_golden {
    FILE *file;      /* borrowed */
    char *name;      /* its name in errors */
    char *line;      /* the line being read */
    size_t n_line;   /* bytes of `line`, without its end */
    size_t capacity; /* bytes that `line` has room for */
    size_t number;   /* of the line, from 1 */
    const char *at;  /* the next token */
};

/* The keys of a header besides the rule. */
typedef struct header {
    char optimizer[TOKEN], inner[TOKEN], kind[TOKEN];
    char arguments[PSD_GOLDEN_SPEC]; /* of the (inner) rule, comma-separated */
    char outer[PSD_GOLDEN_SPEC];     /* of Lookahead, each after a comma */
    uint64_t n, steps, n_shape;
} header_t;

/* ---- errors ---- */

static int bad(const psd_golden_t *self, psd_err_t *err, const char *format, ...) __attribute__((format(printf, 3, 4)));

static int bad(const psd_golden_t *self, psd_err_t *err, const char *format, ...)
{
    char what[sizeof err->text];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    return psd_err_set(err, PSD_EDATA, "%s:%zu: %s", self->name, self->number, what);
}

static int no_memory(psd_err_t *err) { return psd_err_set(err, PSD_ENOMEM, "no memory to read a golden file"); }

/* ---- lines and tokens ---- */

static int grow_line(psd_golden_t *self, psd_err_t *err)
{
    const size_t capacity = self->capacity ? 2 * self->capacity : 4096;
    if (self->n_line >= LINE_MAX_BYTES)
        return bad(self, err, "a line of more than %d bytes", LINE_MAX_BYTES);
    char *line = realloc(self->line, capacity);
    if (!line)
        return no_memory(err);
    self->line = line;
    self->capacity = capacity;
    return PSD_OK;
}

/* Read a line. `*got` is false at the end of the file. */
static int read_line(psd_golden_t *self, bool *got, psd_err_t *err)
{
    self->n_line = 0;
    self->number++;
    *got = true;
    for (;;) {
        if (self->n_line + 1 >= self->capacity) {
            const int rc = grow_line(self, err);
            if (rc)
                return rc;
        }
        const int c = getc(self->file);
        if (c == EOF && ferror(self->file))
            return psd_err_set(err, PSD_EIO, "%s: %s", self->name, strerror(errno));
        if (c == EOF && self->n_line == 0)
            *got = false;
        if (c == EOF || c == '\n')
            break;
        if (c < ' ' || c > '~')
            return bad(self, err, "byte 0x%02x is not a printable character", (unsigned)c);
        self->line[self->n_line++] = (char)c;
    }
    self->line[self->n_line] = '\0';
    self->at = self->line;
    return PSD_OK;
}

/* Read the next line that is neither empty nor a comment. */
static int read_record(psd_golden_t *self, bool *got, psd_err_t *err)
{
    int rc;
    do
        rc = read_line(self, got, err);
    while (!rc && *got && (self->n_line == 0 || self->line[0] == '#'));
    return rc;
}

/* Take the next token, if there is a valid one; tokens are separated by one space. */
static bool take_token(psd_golden_t *self, char token[TOKEN])
{
    const size_t n = strcspn(self->at, " ");
    if (n == 0 || n >= TOKEN)
        return false;
    memcpy(token, self->at, n);
    token[n] = '\0';
    self->at += n;
    if (self->at[0] == ' ' && self->at[1] != '\0' && self->at[1] != ' ')
        self->at++;
    return true;
}

/* Take a whole number of at most `max`. */
static int take_whole(psd_golden_t *self, const char *what, uint64_t max, uint64_t *out, psd_err_t *err)
{
    char token[TOKEN];
    uint64_t value = 0;
    if (!take_token(self, token))
        return bad(self, err, "expected %s at byte %zu", what, (size_t)(self->at - self->line) + 1);
    for (const char *c = token; *c; c++) {
        if (*c < '0' || *c > '9' || value > max)
            return bad(self, err, "%s must be a whole number of at most %" PRIu64 ", not '%s'", what, max, token);
        value = 10 * value + (uint64_t)(*c - '0');
    }
    if (value > max)
        return bad(self, err, "%s must be a whole number of at most %" PRIu64 ", not '%s'", what, max, token);
    *out = value;
    return PSD_OK;
}

static int take_double(psd_golden_t *self, const char *what, double *out, psd_err_t *err)
{
    char token[TOKEN];
    const size_t column = (size_t)(self->at - self->line) + 1;
    if (!take_token(self, token))
        return bad(self, err, "expected %s at byte %zu", what, column);
    if (psd_number_read(token, out) != strlen(token) || !isfinite(*out))
        return bad(self, err, "%s at byte %zu must be a finite number, not '%s'", what, column, token);
    return PSD_OK;
}

/* Take the line's last values: exactly n. */
static int take_doubles(psd_golden_t *self, size_t n, double **out, psd_err_t *err)
{
    double *values = calloc(n, sizeof *values);
    int rc = values ? PSD_OK : no_memory(err);
    for (size_t i = 0; !rc && i < n; i++)
        rc =
            *self->at ? take_double(self, "a value", &values[i], err) : bad(self, err, "%zu values where the case has n=%zu", i, n);
    if (!rc && *self->at)
        rc = bad(self, err, "more than the %zu values of the case, or a space too many", n);
    if (rc)
        free(values);
    else
        *out = values;
    return rc;
}

static int take_floats(psd_golden_t *self, size_t n, float **out, psd_err_t *err)
{
    double *wide = NULL;
    int rc = take_doubles(self, n, &wide, err);
    if (rc)
        return rc;
    float *values = calloc(n, sizeof *values);
    if (!values)
        rc = no_memory(err);
    for (size_t i = 0; !rc && i < n; i++) {
        values[i] = (float)wide[i];
        if (!isfinite(values[i]))
            rc = bad(self, err, "value %zu is beyond float32", i + 1);
    }
    free(wide);
    if (rc)
        free(values);
    else
        *out = values;
    return rc;
}

/* ---- the header ---- */

static int append(const psd_golden_t *self, char text[PSD_GOLDEN_SPEC], const char *separator, const char *more, psd_err_t *err)
{
    const size_t used = strlen(text);
    const int n = snprintf(text + used, PSD_GOLDEN_SPEC - used, "%s%s", separator, more);
    if (n < 0 || (size_t)n >= PSD_GOLDEN_SPEC - used)
        return bad(self, err, "a rule of more than %d characters", PSD_GOLDEN_SPEC - 1);
    return PSD_OK;
}

/* Read a shape such as "4x3,5,1" into the sizes of its tensors. Returns their sum; 0 when it is not a shape. */
static uint64_t read_shape(const char *shape, psd_golden_case_t *c)
{
    uint64_t total = 0, product = 1, size = 0;
    psd_shape_t dims = { .n_dims = 0 }; /* any number of dimensions: matrices, rows and columns so far */
    c->n_tensors = 0;
    for (const char *at = shape;; at++) {
        if (*at >= '0' && *at <= '9') {
            size = 10 * size + (uint64_t)(*at - '0');
        } else {
            product *= size;
            dims = (psd_shape_t){ dims.n_dims + 1, dims.n_dims > 1 ? dims.n_matrices * dims.rows : 1, dims.cols, size };
            size = 0;
            if (*at == ',' || *at == '\0') {
                if (c->n_tensors == PSD_GOLDEN_TENSORS || !product)
                    return 0;
                c->tensor[c->n_tensors] =
                    (psd_extent_t){ .n = product, .shape = dims.n_dims > 1 ? dims : (psd_shape_t){ .n_dims = 1 } };
                c->size[c->n_tensors++] = product;
                total += product;
                product = 1;
                dims.n_dims = 0;
            } else if (*at != 'x') {
                return 0;
            }
        }
        if (size > PSD_GOLDEN_N || product > PSD_GOLDEN_N || total > PSD_GOLDEN_N)
            return 0;
        if (*at == '\0')
            return total;
    }
}

static bool is_outer(const header_t *h, const char *key)
{
    if (strcmp(h->optimizer, "cautious") == 0)
        return strcmp(key, "caution_min") == 0;
    if (strcmp(h->optimizer, "lookahead") != 0)
        return false;
    /* The first alpha is Lookahead's; an inner rmsprop has another. */
    return strcmp(key, "k") == 0 || strcmp(key, "pullback") == 0 || (strcmp(key, "alpha") == 0 && !strstr(h->outer, "alpha="));
}

static int whole_value(const psd_golden_t *self, const char *key, const char *value, uint64_t max, uint64_t *out, psd_err_t *err)
{
    double number = 0;
    if (psd_number_read(value, &number) != strlen(value) || !(number >= 1) || number > (double)max || floor(number) != number)
        return bad(self, err, "%s must be a whole number from 1 to %" PRIu64 ", not '%s'", key, max, value);
    *out = (uint64_t)number;
    return PSD_OK;
}

static int bound_value(const psd_golden_t *self, const char *key, const char *value, double *out, psd_err_t *err)
{
    if (psd_number_read(value, out) != strlen(value) || !(*out > 0) || !isfinite(*out))
        return bad(self, err, "%s must be a number above 0, not '%s'", key, value);
    return PSD_OK;
}

static bool is_schedule(const header_t *h) { return strcmp(h->optimizer, "schedule") == 0; }

/* The file's names of a schedule's arguments that differ from psd's. */
static int read_schedule_key(const psd_golden_t *self, const char *key, const char *value, psd_golden_case_t *c, header_t *h,
                             psd_err_t *err)
{
    static const char *const names[][2] = { { "t_max", "steps" },      { "total_steps", "steps" },   { "lr_min", "min" },
                                            { "decay", "shape" },      { "warmup_steps", "warmup" }, { "stable_steps", "stable" },
                                            { "decay_steps", "decay" } };
    char token[2 * TOKEN + 2];
    if (strcmp(key, "kind") == 0)
        return strcpy(h->kind, value), PSD_OK;
    if (strcmp(key, "lr") == 0)
        return bound_value(self, key, value, &c->lr, err);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(key, names[i][0]) == 0) {
            key = names[i][1];
            break;
        }
    snprintf(token, sizeof token, "%s=%s", key, strcmp(value, "1-sqrt") == 0 ? "sqrt" : value);
    return append(self, h->arguments, h->arguments[0] ? ", " : "", token, err);
}

static bool is_groups(const header_t *h) { return strcmp(h->optimizer, "groups") == 0; }

/* "fc.weight,fc.bias" */
static int read_names(const psd_golden_t *self, const char *names, psd_golden_case_t *c, psd_err_t *err)
{
    for (size_t t = 0, n; *names; names += n + (names[n] == ','), t++) {
        n = strcspn(names, ",");
        if (t == PSD_GOLDEN_TENSORS || n == 0 || n >= sizeof c->name[t])
            return bad(self, err, "names= has too many names, or one that is too long or empty");
        memcpy(c->name[t], names, n);
        c->name[t][n] = '\0';
    }
    return PSD_OK;
}

/* "*.bias;adamw;lr_mult:2;beta1:0.9" becomes "*.bias(optimizer=adamw(beta1=0.9), lr_mult=2)". Its rate is the case's, which stands
 * elsewhere in the header, so leave a place for it. */
static int read_group(const psd_golden_t *self, const char *text, psd_golden_case_t *c, psd_err_t *err)
{
    char copy[TOKEN], arguments[TOKEN] = "", mult[TOKEN] = "1", *rest = copy;
    strcpy(copy, text);
    const char *pattern = strsep(&rest, ";"), *optimizer = strsep(&rest, ";");
    for (char *pair; (pair = strsep(&rest, ";"));) {
        char *colon = strchr(pair, ':');
        const size_t used = strlen(arguments);
        if (!colon)
            return bad(self, err, "expected key:value in a group, found '%s'", pair);
        *colon = '=';
        if (!strncmp(pair, "lr_mult=", 8))
            strcpy(mult, pair + 8);
        else
            snprintf(arguments + used, sizeof arguments - used, ", %s", pair);
    }
    const size_t used = strlen(c->groups);
    const int n = snprintf(c->groups + used, PSD_GROUPS_TEXT - used, "%s%s(optimizer=%s(lr=@%s), lr_mult=%s)", used ? "; " : "",
                           pattern, optimizer ? optimizer : "", arguments, mult);
    return n > 0 && (size_t)n < PSD_GROUPS_TEXT - used ? PSD_OK
                                                       : bad(self, err, "groups of more than %d characters", PSD_GROUPS_TEXT - 1);
}

/* Put the case's rate into that place. */
static int settle_groups(const psd_golden_t *self, psd_golden_case_t *c, const char *arguments, psd_err_t *err)
{
    char text[PSD_GROUPS_TEXT] = "";
    const char *lr = !strncmp(arguments, "lr=", 3) ? arguments + 3 : "";
    size_t used = 0;
    for (const char *at = c->groups; *at; at++)
        used += used < sizeof text - 1
                    ? (size_t)snprintf(text + used, sizeof text - used, *at == '@' ? "%s" : "%.1s", *at == '@' ? lr : at)
                    : 0;
    if (!*lr || !*c->groups || used >= sizeof text)
        return bad(self, err, "case %s needs lr= and group0=, and its groups must not be too long", c->id);
    strcpy(c->groups, text);
    snprintf(c->spec, sizeof c->spec, "sgd(lr=%s)", lr);
    return PSD_OK;
}

/* Take one key=value of the header; a key that the format does not define belongs to the rule. */
static int read_key(psd_golden_t *self, const char *token, psd_golden_case_t *c, header_t *h, psd_err_t *err)
{
    const char *equals = strchr(token, '=');
    char key[TOKEN];
    uint64_t ignored;
    if (!equals || equals == token || !equals[1])
        return bad(self, err, "expected key=value, found '%s'", token);
    memcpy(key, token, (size_t)(equals - token));
    key[equals - token] = '\0';
    const char *value = equals + 1;

    if (strcmp(key, "opt") == 0)
        return strcpy(h->optimizer, value), PSD_OK;
    if (is_schedule(h) && strcmp(key, "steps") != 0)
        return read_schedule_key(self, key, value, c, h, err);
    if (strcmp(key, "inner") == 0)
        return strcpy(h->inner, value), PSD_OK;
    if (strcmp(key, "n") == 0)
        return whole_value(self, key, value, PSD_GOLDEN_N, &h->n, err);
    if (strcmp(key, "steps") == 0)
        return whole_value(self, key, value, PSD_GOLDEN_STEPS, &h->steps, err);
    if (strcmp(key, "workers") == 0)
        return whole_value(self, key, value, PSD_GOLDEN_WORKERS, &ignored, err);
    if (strcmp(key, "agg") == 0)
        return strcmp(value, "wmean") == 0 ? PSD_OK : bad(self, err, "agg must be wmean, not '%s'", value);
    if (strcmp(key, "vote") == 0 && strcmp(value, "mean") == 0)
        return append(self, h->arguments, h->arguments[0] ? ", " : "", "mean=1", err);
    if (strcmp(key, "vote") == 0)
        return strcmp(value, "majority") == 0 ? PSD_OK : bad(self, err, "vote must be majority or mean, not '%s'", value);
    if (strcmp(key, "tol") == 0)
        return psd_number_read(value, &c->tol) == strlen(value) && c->tol >= 0 && isfinite(c->tol)
                   ? PSD_OK
                   : bad(self, err, "tol must be a number of at least 0, not '%s'", value);
    if (strcmp(key, "shape") == 0)
        return (h->n_shape = read_shape(value, c)) ? PSD_OK : bad(self, err, "'%s' is not a shape", value);
    if (strcmp(key, "clip_value") == 0)
        return bound_value(self, key, value, &c->clip.value, err);
    if (strcmp(key, "max_norm") == 0)
        return bound_value(self, key, value, &c->clip.norm, err);
    if (is_groups(h) && strcmp(key, "names") == 0)
        return read_names(self, value, c, err);
    if (is_groups(h) && strncmp(key, "group", 5) == 0)
        return read_group(self, value, c, err);
    if (is_outer(h, key))
        return append(self, h->outer, ", ", token, err);
    return append(self, h->arguments, h->arguments[0] ? ", " : "", token, err);
}

/* Write the rule of the header in psd's grammar. */
static int write_spec(const psd_golden_t *self, psd_golden_case_t *c, const header_t *h, psd_err_t *err)
{
    if (is_schedule(h)) {
        psd_err_t why = { .code = PSD_OK };
        c->schedules = true;
        const int n = snprintf(c->spec, sizeof c->spec, "%s(%s)", h->kind, h->arguments);
        if (n < 0 || (size_t)n >= sizeof c->spec || psd_schedule_parse(&c->schedule, c->spec, &why) != PSD_OK)
            return bad(self, err, "case %s: %s", c->id, *why.text ? why.text : "a schedule that is too long");
        return c->lr > 0 ? PSD_OK : bad(self, err, "case %s has no lr=", c->id);
    }
    c->clips = strcmp(h->optimizer, "clip") == 0;
    if (c->clips)
        return strcpy(c->spec, "sgd(lr=1)"), PSD_OK;
    if (c->clip.value > 0 || c->clip.norm > 0)
        return bad(self, err, "clip_value= and max_norm= belong only to opt=clip");
    if (is_groups(h))
        return settle_groups(self, c, h->arguments, err);
    const bool wrapped = strcmp(h->optimizer, "lookahead") == 0 || strcmp(h->optimizer, "cautious") == 0;
    const char *inner = wrapped ? h->inner : h->optimizer;
    if (inner[0] == '\0')
        return bad(self, err, "the case names no %s", wrapped ? "inner= optimizer" : "optimizer (opt=)");
    if (!wrapped && h->inner[0])
        return bad(self, err, "inner=%s belongs only to opt=lookahead and opt=cautious", h->inner);
    const int n = snprintf(c->spec, sizeof c->spec, "%s%s%s(%s)%s%s", wrapped ? h->optimizer : "", wrapped ? "(" : "", inner,
                           h->arguments, h->outer, wrapped ? ")" : "");
    if (n < 0 || (size_t)n >= sizeof c->spec)
        return bad(self, err, "a rule of more than %d characters", PSD_GOLDEN_SPEC - 1);
    return PSD_OK;
}

static int read_header(psd_golden_t *self, psd_golden_case_t *c, size_t *n_steps, psd_err_t *err)
{
    char token[TOKEN];
    header_t h = { .n = 0 };
    c->header = strdup(self->line);
    c->size = calloc(PSD_GOLDEN_TENSORS, sizeof *c->size);
    c->tensor = calloc(PSD_GOLDEN_TENSORS, sizeof *c->tensor);
    c->name = calloc(PSD_GOLDEN_TENSORS, sizeof *c->name);
    c->groups = calloc(1, PSD_GROUPS_TEXT);
    if (!c->header || !c->size || !c->tensor || !c->name || !c->groups)
        return no_memory(err);
    for (int t = 0; t < PSD_GOLDEN_TENSORS; t++)
        snprintf(c->name[t], sizeof c->name[t], "w%d", t);
    if (!take_token(self, token) || strcmp(token, "case") != 0)
        return bad(self, err, "expected a case, found '%.20s'", self->line);
    if (!take_token(self, token) || strlen(token) >= sizeof c->id)
        return bad(self, err, "the case has no id, or one of more than %d characters", PSD_GOLDEN_ID - 1);
    strcpy(c->id, token);
    while (*self->at) {
        if (!take_token(self, token))
            return bad(self, err, "a space too many, or more than %d characters, at byte %zu", TOKEN - 1,
                       (size_t)(self->at - self->line) + 1);
        const int rc = read_key(self, token, c, &h, err);
        if (rc)
            return rc;
    }
    if (is_schedule(&h) && h.steps) {
        *n_steps = h.steps;
        return write_spec(self, c, &h, err);
    }
    if (!h.n || !h.steps)
        return bad(self, err, "case %s needs n= and steps=", c->id);
    if (h.n * h.steps > PSD_GOLDEN_VALUES)
        return bad(self, err, "case %s has more than %d values", c->id, PSD_GOLDEN_VALUES);
    if (h.n_shape && h.n_shape != h.n)
        return bad(self, err, "the shape has %" PRIu64 " elements, but n=%" PRIu64, h.n_shape, h.n);
    c->n = h.n;
    if (!h.n_shape) {
        c->n_tensors = 1;
        c->size[0] = h.n;
        c->tensor[0] = (psd_extent_t){ .n = h.n, .shape = { .n_dims = 1 } };
    }
    *n_steps = h.steps;
    return write_spec(self, c, &h, err);
}

/* ---- the records ---- */

/* Begin the next step. NULL without memory. */
static psd_golden_step_t *begin_step(psd_golden_case_t *c)
{
    if ((c->n_steps & (c->n_steps + 1)) == 0) { /* grows whenever n_steps + 1 is a power of two */
        psd_golden_step_t *steps = realloc(c->steps, 2 * (c->n_steps + 1) * sizeof *steps);
        if (!steps)
            return NULL;
        c->steps = steps;
    }
    c->steps[c->n_steps] = (psd_golden_step_t){ .has_lr = false };
    return &c->steps[c->n_steps++];
}

/* Take the number of a step: one that was begun, or the next. */
static int take_step(psd_golden_t *self, psd_golden_case_t *c, size_t n_steps, psd_golden_step_t **step, psd_err_t *err)
{
    uint64_t t;
    const int rc = take_whole(self, "the step", n_steps, &t, err);
    if (rc)
        return rc;
    if (t == 0 || t > c->n_steps + 1)
        return bad(self, err, "step %" PRIu64 " follows step %zu", t, c->n_steps);
    if (t == c->n_steps + 1 && !begin_step(c))
        return no_memory(err);
    *step = &c->steps[t - 1];
    return PSD_OK;
}

static int read_lr(psd_golden_t *self, psd_golden_step_t *step, psd_err_t *err)
{
    if (step->has_lr)
        return bad(self, err, "a second lr of this step");
    const int rc = take_double(self, "the learning rate", &step->lr, err);
    if (rc)
        return rc;
    if (*self->at || step->lr < 0)
        return bad(self, err, "lr takes one number of at least 0");
    step->has_lr = true;
    return PSD_OK;
}

static int read_push(psd_golden_t *self, psd_golden_step_t *step, size_t n, psd_err_t *err)
{
    uint64_t worker = 0, samples = 0;
    int rc = take_whole(self, "the worker", PSD_GOLDEN_WORKERS - 1, &worker, err);
    if (!rc)
        rc = take_whole(self, "the samples", UINT64_C(1) << 40, &samples, err);
    if (rc)
        return rc;
    if (step->g || (step->n_pushes && step->pushes[step->n_pushes - 1].worker >= worker))
        return bad(self, err, "a step has either one g or gw lines of ascending workers");
    psd_golden_push_t *pushes = realloc(step->pushes, (step->n_pushes + 1) * sizeof *pushes);
    if (!pushes)
        return no_memory(err);
    step->pushes = pushes;
    pushes[step->n_pushes] = (psd_golden_push_t){ .worker = (uint32_t)worker, .samples = samples };
    rc = take_floats(self, n, &pushes[step->n_pushes].g, err);
    step->n_pushes += rc == PSD_OK;
    return rc;
}

static int read_skip(psd_golden_t *self, psd_golden_step_t *step, size_t n_tensors, psd_err_t *err)
{
    uint64_t tensor = 0;
    const int rc = take_whole(self, "the tensor", n_tensors - 1, &tensor, err);
    if (rc)
        return rc;
    if (*self->at)
        return bad(self, err, "skip takes a step and a tensor");
    if (!step->skips && !(step->skips = calloc(n_tensors, 1)))
        return no_memory(err);
    step->skips[tensor] = 1;
    return PSD_OK;
}

static int read_expected(psd_golden_t *self, double **into, size_t n, psd_err_t *err)
{
    if (*into)
        return bad(self, err, "a second record of this kind and step");
    return take_doubles(self, n, into, err);
}

static int read_step_record(psd_golden_t *self, const char *kind, psd_golden_case_t *c, size_t n_steps, psd_err_t *err)
{
    psd_golden_step_t *step = NULL;
    if (!strstr(" lr g gw w x c skip d ", kind))
        return bad(self, err, "unknown record '%s'; it must be lr, g, gw, w, x, c, d, skip or end", kind);
    const int rc = take_step(self, c, n_steps, &step, err);
    if (rc)
        return rc;
    if (strcmp(kind, "lr") == 0)
        return read_lr(self, step, err);
    if (strcmp(kind, "gw") == 0)
        return read_push(self, step, c->n, err);
    double estimate;
    if (strcmp(kind, "d") == 0)
        return take_double(self, "the estimate", &estimate, err);
    if (strcmp(kind, "skip") == 0)
        return read_skip(self, step, c->n_tensors, err);
    if (strcmp(kind, "w") == 0)
        return read_expected(self, &step->w, c->n, err);
    if (strcmp(kind, "x") == 0)
        return read_expected(self, &step->x, c->n, err);
    if (strcmp(kind, "c") == 0)
        return read_expected(self, &step->c, c->n, err);
    if (step->g || step->pushes)
        return bad(self, err, "a second gradient of this step");
    return take_floats(self, c->n, &step->g, err);
}

/* Read the expected rate of a schedule at its next step. */
static int read_rate(psd_golden_t *self, const char *kind, psd_golden_case_t *c, size_t n_steps, psd_err_t *err)
{
    uint64_t t = 0;
    if (strcmp(kind, "lr") != 0)
        return bad(self, err, "unknown record '%s'; in a schedule's case it must be lr or end", kind);
    int rc = take_whole(self, "the step", n_steps - 1, &t, err);
    if (!rc && t != c->n_steps)
        return bad(self, err, "step %" PRIu64 " follows %zu steps, which count from 0", t, c->n_steps);
    psd_golden_step_t *step = rc ? NULL : begin_step(c);
    if (!step)
        return rc ? rc : no_memory(err);
    step->momentum = NAN;
    rc = take_double(self, "the learning rate", &step->lr, err);
    if (!rc && *self->at)
        rc = take_double(self, "the momentum", &step->momentum, err);
    step->has_lr = true;
    return rc || !*self->at ? rc : bad(self, err, "lr takes a rate and, at most, a momentum");
}

/* Check that the case, at its end, has all that a replay needs. */
static int check_whole(const psd_golden_t *self, const psd_golden_case_t *c, size_t n_steps, psd_err_t *err)
{
    if (c->schedules)
        return c->n_steps == n_steps ? PSD_OK : bad(self, err, "case %s has %zu of %zu steps", c->id, c->n_steps, n_steps);
    if (!c->w0 && !c->clips)
        return bad(self, err, "case %s has no w0", c->id);
    if (c->n_steps != n_steps)
        return bad(self, err, "case %s has %zu of %zu steps", c->id, c->n_steps, n_steps);
    for (size_t i = 0; i < n_steps; i++) {
        const psd_golden_step_t *step = &c->steps[i];
        uint64_t samples = 0;
        for (size_t k = 0; k < step->n_pushes; k++)
            samples += step->pushes[k].samples;
        if (!step->g && samples == 0)
            return bad(self, err, "step %zu of case %s has no gradient", i + 1, c->id);
    }
    return PSD_OK;
}

/* Read the records that follow a header, up to "end". */
static int read_body(psd_golden_t *self, psd_golden_case_t *c, size_t n_steps, psd_err_t *err)
{
    for (;;) {
        char kind[TOKEN];
        bool got;
        int rc = read_record(self, &got, err);
        if (rc)
            return rc;
        if (!got)
            return bad(self, err, "the file stops within case %s", c->id);
        if (!take_token(self, kind))
            return bad(self, err, "a line begins with the name of a record");
        if (strcmp(kind, "end") == 0)
            return *self->at ? bad(self, err, "nothing may follow 'end'") : check_whole(self, c, n_steps, err);
        if (c->schedules)
            rc = read_rate(self, kind, c, n_steps, err);
        else if (strcmp(kind, "w0") == 0)
            rc = c->w0 ? bad(self, err, "a second w0") : take_floats(self, c->n, &c->w0, err);
        else
            rc = read_step_record(self, kind, c, n_steps, err);
        if (rc)
            return rc;
    }
}

/* ---- the interface ---- */

psd_golden_t *psd_golden_new(FILE *file, const char *name, psd_err_t *err)
{
    psd_golden_t *self = calloc(1, sizeof *self);
    char *copy = strdup(name);
    if (!self || !copy) {
        no_memory(err);
        free(self);
        free(copy);
        return NULL;
    }
    *self = (psd_golden_t){ .file = file, .name = copy };
    return self;
}

void psd_golden_destroy(psd_golden_t **self_p)
{
    if (*self_p) {
        free((*self_p)->name);
        free((*self_p)->line);
    }
    free(*self_p);
    *self_p = NULL;
}

int psd_golden_next(psd_golden_t *self, psd_golden_case_t **out, psd_err_t *err)
{
    bool got;
    size_t n_steps = 0;
    *out = NULL;
    int rc = read_record(self, &got, err);
    if (rc || !got)
        return rc;
    psd_golden_case_t *c = calloc(1, sizeof *c);
    if (!c)
        return no_memory(err);
    rc = read_header(self, c, &n_steps, err);
    if (!rc)
        rc = read_body(self, c, n_steps, err);
    if (!rc && !c->w0 && !c->schedules && !(c->w0 = calloc(c->n, sizeof *c->w0)))
        rc = no_memory(err);
    if (rc)
        psd_golden_case_destroy(&c);
    *out = c;
    return rc;
}

void psd_golden_case_destroy(psd_golden_case_t **self_p)
{
    psd_golden_case_t *self = *self_p;
    if (!self)
        return;
    for (size_t i = 0; i < self->n_steps; i++) {
        psd_golden_step_t *step = &self->steps[i];
        for (size_t k = 0; k < step->n_pushes; k++)
            free(step->pushes[k].g);
        free(step->pushes);
        free(step->skips);
        free(step->g);
        free(step->w);
        free(step->x);
        free(step->c);
    }
    free(self->steps);
    free(self->name);
    free(self->groups);
    free(self->w0);
    free(self->size);
    free(self->tensor);
    free(self->header);
    free(self);
    *self_p = NULL;
}

void psd_golden_print(FILE *out, char record, size_t t, const float *values, size_t n)
{
    char number[PSD_NUMBER_TEXT];
    fprintf(out, "%c %zu", record, t);
    for (size_t i = 0; i < n; i++)
        fprintf(out, " %s", psd_number_print_digits((double)values[i], 9, number));
    putc('\n', out);
}
