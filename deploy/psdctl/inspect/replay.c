#include "deploy/psdctl/inspect/replay.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "common/config/number.h"
#include "common/optim/schedule.h"
#include "deploy/psdctl/verb.h"
#include "psd/worker.h"

/* ---- by a server ---- */

/* The failure of a call of the worker library; it has the same codes. */
static int worker_error(const psd_worker_t *worker, int code, const char *doing, psd_err_t *err)
{
    return psd_err_set(err, code, "%s: %s", doing, worker ? psd_worker_error(worker) : psd_strerror(code));
}

/* One worker of a replay. */
typedef struct member {
    psd_worker_t *worker;
    const psd_golden_case_t *c;
    const psd_groups_t *groups;
    const char *join, *job;
    uint32_t index;     /* its rank, which orders the sums */
    float *w;           /* n weights */
    uv_thread_t thread; /* joins in it, because registration waits for the others */
    int rc;
    psd_err_t err;
} member_t;

uint32_t psd_replay_workers(const psd_golden_case_t *c)
{
    uint32_t n = 1;
    for (size_t i = 0; i < c->n_steps; i++)
        for (size_t k = 0; k < c->steps[i].n_pushes; k++)
            if (c->steps[i].pushes[k].worker + 1 > n)
                n = c->steps[i].pushes[k].worker + 1;
    return n;
}

/* Check that the servers run exactly these rules, with the case's clipping bounds. */
static int check_settings(psd_worker_t *worker, const psd_groups_t *groups, const psd_golden_case_t *c, psd_err_t *err)
{
    char wanted[PSD_RULE_TEXT], text[PSD_GROUPS_TEXT];
    psd_worker_settings_t found = { .size = sizeof found };
    const int rc = psd_worker_settings(worker, &found);
    if (rc)
        return worker_error(worker, rc, "settings", err);
    if (strcmp(found.groups, psd_groups_print(groups, text)))
        return psd_err_set(err, PSD_EREFUSED, "the server has groups \"%.300s\", but this replay needs --groups=\"%.300s\"",
                           found.groups, text);
    if (strcmp(found.optimizer, psd_rule_print(&psd_groups_rest(groups)->rule, wanted)))
        return psd_err_set(err, PSD_EREFUSED, "the server runs %s, but this replay needs %s", found.optimizer, wanted);
    psd_schedule_t schedule;
    if (psd_schedule_parse(&schedule, found.schedule, NULL) != PSD_OK || !psd_schedule_is_constant(&schedule))
        return psd_err_set(err, PSD_EREFUSED, "the server has the schedule %.300s, but a replay needs a constant one",
                           found.schedule);
    if (strcmp(found.codec_push, "f32") || strcmp(found.codec_pull, "f32"))
        return psd_err_set(err, PSD_EREFUSED, "the server has codec.push %s and codec.pull %s, but a replay needs f32 for both",
                           found.codec_push, found.codec_pull);
    if (found.clip_value != c->clip.value || found.clip_norm != c->clip.norm)
        return psd_err_set(err, PSD_EREFUSED,
                           "the server has clip.value %g and clip.norm %g, but this replay needs %g and %g; start psd with "
                           "--clip-value %.17g --clip-norm %.17g",
                           found.clip_value, found.clip_norm, c->clip.value, c->clip.norm, c->clip.value, c->clip.norm);
    return PSD_OK;
}

/* The dimensions of a tensor; of more than three, the first ones are merged. Returns their number. */
static size_t dims_of(const psd_extent_t *tensor, uint64_t dim[3])
{
    const psd_shape_t *shape = &tensor->shape;
    size_t n = 0;
    if (shape->n_dims > 2)
        dim[n++] = shape->n_matrices;
    if (shape->n_dims > 1)
        dim[n++] = shape->rows;
    dim[n++] = shape->n_dims > 1 ? shape->cols : tensor->n;
    return n;
}

/* Register the weights as the model, tensor by tensor, and check that the job took them unchanged. */
static int register_weights(member_t *self)
{
    const psd_golden_case_t *c = self->c;
    psd_tensor_t tensor[PSD_GOLDEN_TENSORS];
    uint64_t shape[PSD_GOLDEN_TENSORS][3];
    memcpy(self->w, c->w0, c->n * sizeof *self->w);
    for (size_t t = 0, at = 0; t < c->n_tensors; at += c->size[t++]) {
        tensor[t] = (psd_tensor_t){
            .name = c->name[t], .shape = shape[t], .n_dims = dims_of(&c->tensor[t], shape[t]), .data = self->w + at
        };
    }
    const int rc = psd_worker_register(self->worker, tensor, c->n_tensors);
    if (rc)
        return worker_error(self->worker, rc, "register", &self->err);
    psd_position_t at = { .size = sizeof at };
    if (psd_worker_position(self->worker, &at) || at.version != 0 ||
        memcmp(self->w, self->c->w0, self->c->n * sizeof *self->w) != 0)
        return psd_err_set(&self->err, PSD_EREFUSED,
                           "the server's model is already trained (version %" PRIu64 "); a replay needs a fresh job", at.version);
    return PSD_OK;
}

/* Say whom it waits for; the other events of a worker are of no interest here. */
static void say_waiting(void *arg, int level, const char *id, const char *line)
{
    const char *quoted = strchr(line, '"'); /* for="no process listens at ..." */
    (void)arg, (void)level;
    if (!strcmp(id, "worker.waiting") && quoted)
        fprintf(stderr, "psdctl replay: waiting: %.*s\n", (int)strcspn(quoted + 1, "\""), quoted + 1);
}

static void join_one(void *arg)
{
    member_t *self = arg;
    const psd_worker_config_t config = { .size = sizeof config,
                                         .join = self->join,
                                         .job = self->job,
                                         .worker = (int)self->index + 1,
                                         .insecure = 1,
                                         .log = self->index ? NULL : say_waiting };
    self->rc = psd_worker_connect(&self->worker, &config);
    if (self->rc)
        self->rc = worker_error(self->worker, self->rc, self->join, &self->err);
    else
        self->rc = check_settings(self->worker, self->groups, self->c, &self->err);
    if (!self->rc)
        self->rc = register_weights(self);
}

static int join_all(member_t *member, uint32_t n, psd_err_t *err)
{
    for (uint32_t k = 0; k < n; k++)
        if (uv_thread_create(&member[k].thread, join_one, &member[k]))
            abort(); /* if a thread cannot be started, the others would wait */
    for (uint32_t k = 0; k < n; k++)
        uv_thread_join(&member[k].thread);
    for (uint32_t k = 0; k < n; k++)
        if (member[k].rc)
            return *err = member[k].err, member[k].rc;
    psd_position_t at = { .size = sizeof at };
    if (psd_worker_position(member[0].worker, &at) || at.world != n)
        return psd_err_set(err, PSD_EREFUSED,
                           "the case has %u workers, but the job was started with %u; start psd with --workers-min %u", n, at.world,
                           n);
    return PSD_OK;
}

/* The gradient that worker `k` pushes in a step: its own, or the only one if it is the first worker, or none. */
static int push_part(member_t *self, const psd_golden_step_t *step, psd_ticket_t *ticket)
{
    const float *g = self->index == 0 ? step->g : NULL;
    uint64_t samples = g ? 1 : 0;
    for (size_t k = 0; k < step->n_pushes; k++)
        if (step->pushes[k].worker == self->index) {
            g = step->pushes[k].g;
            samples = step->pushes[k].samples;
        }
    const float *part[PSD_GOLDEN_TENSORS];
    for (size_t t = 0, at = 0; g && t < self->c->n_tensors; at += self->c->size[t++])
        part[t] = psd_golden_skips(step, t) ? NULL : g + at;
    return psd_worker_exchange(self->worker, g ? part : NULL, samples, 0.0, ticket);
}

static int exchange_gradients(member_t *member, uint32_t n, const psd_golden_step_t *step, psd_err_t *err)
{
    psd_ticket_t ticket[PSD_GOLDEN_WORKERS];
    int rc;
    for (uint32_t k = 0; k < n; k++)
        if ((rc = push_part(&member[k], step, &ticket[k])) != 0)
            return worker_error(member[k].worker, rc, "exchange", err);
    for (uint32_t k = 0; k < n; k++)
        if ((rc = psd_worker_wait(member[k].worker, ticket[k], 60000)) != 0)
            return worker_error(member[k].worker, rc, "exchange", err);
    return PSD_OK;
}

static int exchange_step(member_t *member, uint32_t n, const psd_golden_step_t *step, psd_err_t *err)
{
    const int rc =
        psd_worker_set_lr(member[0].worker, step->has_lr ? step->lr : psd_rule_lr(&psd_groups_rest(member[0].groups)->rule), 60000);
    return rc ? worker_error(member[0].worker, rc, "set the learning rate", err) : exchange_gradients(member, n, step, err);
}

/* The weights were 0, and are now minus the clipped gradient: report it, and step back to 0 in two halves. Half of a clipped
 * gradient is not clipped again, and w - w/2 - w/2 is exactly 0. */
static int tell_clipped(member_t *member, uint32_t n, size_t t, psd_trajectory_each_t *each, void *arg, psd_err_t *err)
{
    const size_t n_weights = member[0].c->n;
    float *values = calloc(n_weights, sizeof *values);
    int rc = values ? PSD_OK : psd_err_set(err, PSD_ENOMEM, "no memory to replay %zu weights", n_weights);
    for (size_t i = 0; !rc && i < n_weights; i++)
        values[i] = -member[0].w[i];
    if (!rc)
        each(arg, 'c', t, values);
    for (int half = 0; !rc && half < 2; half++) {
        for (size_t i = 0; i < n_weights; i++)
            values[i] = half ? member[0].w[i] : member[0].w[i] / 2;
        rc = exchange_gradients(member, n, &(psd_golden_step_t){ .g = values }, err);
    }
    free(values);
    return rc;
}

static int exchange_all(member_t *member, uint32_t n, float *slow, psd_trajectory_each_t *each, void *arg, psd_err_t *err)
{
    const psd_golden_case_t *c = member[0].c;
    float *part[PSD_GOLDEN_TENSORS];
    for (size_t t = 0, at = 0; t < c->n_tensors; at += c->size[t++])
        part[t] = slow + at;
    for (size_t t = 1; t <= c->n_steps; t++) {
        int rc = exchange_step(member, n, &c->steps[t - 1], err);
        if (!rc && c->clips)
            rc = tell_clipped(member, n, t, each, arg, err);
        if (rc)
            return rc;
        if (c->clips)
            continue;
        each(arg, 'w', t, member[0].w);
        if (!psd_groups_have_slow(member[0].groups))
            continue;
        if ((rc = psd_worker_pull_slow(member[0].worker, part, 60000)) != 0)
            return worker_error(member[0].worker, rc, "pull", err);
        each(arg, 'x', t, slow);
    }
    return PSD_OK;
}

static int leave_all(member_t *member, uint32_t n, psd_err_t *err)
{
    int rc = PSD_OK;
    for (uint32_t k = 0; k < n && !rc; k++)
        if ((rc = psd_worker_leave(member[k].worker, 1, 10000)) != 0)
            rc = worker_error(member[k].worker, rc, "leave", err);
    return rc;
}

int psd_replay_by_server(const psd_golden_case_t *c, const psd_groups_t *groups, const char *join, const char *job,
                         psd_trajectory_each_t *each, void *arg, psd_err_t *err)
{
    uint32_t n = psd_replay_workers(c);
    member_t *member = calloc(n, sizeof *member);
    float *w = calloc((n + 1) * c->n, sizeof *w);
    int rc = PSD_OK;
    if (!member || !w)
        rc = psd_err_set(err, PSD_ENOMEM, "no memory to replay %zu weights", c->n);
    for (uint32_t k = 0; k < n && !rc; k++)
        member[k] = (member_t){ .c = c, .groups = groups, .join = join, .job = job, .index = k, .w = w + (k + 1) * c->n };
    if (!rc)
        rc = join_all(member, n, err);
    if (!rc)
        rc = exchange_all(member, n, w, each, arg, err);
    if (!rc)
        rc = leave_all(member, n, err);
    for (uint32_t k = 0; member && k < n; k++)
        psd_worker_close(&member[k].worker);
    free(member);
    free(w);
    return rc;
}

/* ---- the verb ---- */

typedef struct options {
    const char *optimizer, *id, *server, *job, *file;
} options_t;

/* Print the records of a case. */
typedef struct printer {
    size_t n; /* weights */
} printer_t;

static void print_step(void *arg, char record, size_t t, const float *values)
{
    const printer_t *self = arg;
    psd_golden_print(stdout, record, t, values, self->n);
}

/* Print the rates of a schedule; a server would compute the same ones. */
static int replay_schedule(const psd_golden_case_t *c, const options_t *o, bool framed, psd_err_t *err)
{
    char lr[PSD_NUMBER_TEXT], second[PSD_NUMBER_TEXT];
    double momentum;
    if (o->optimizer || o->server)
        return psd_err_set(err, PSD_EUSAGE, "case %s tests a schedule, which takes neither --optimizer nor --server", c->id);
    if (framed)
        printf("%s\n", c->header);
    for (size_t t = 0; t < c->n_steps; t++) {
        const bool moves = psd_schedule_momentum(&c->schedule, (double)t, &momentum);
        printf("lr %zu %s%s%s\n", t, psd_number_print(psd_schedule_rate(&c->schedule, c->lr, (double)t), lr), moves ? " " : "",
               moves ? psd_number_print(momentum, second) : "");
    }
    if (framed)
        puts("end");
    return PSD_OK;
}

static int replay_case(const psd_golden_case_t *c, const options_t *o, bool framed, psd_err_t *err)
{
    if (c->schedules)
        return replay_schedule(c, o, framed, err);
    psd_groups_t groups;
    printer_t printer = { .n = c->n };
    int rc = psd_groups_parse(&groups, o->optimizer ? o->optimizer : c->spec, o->optimizer ? "" : c->groups, err);
    if (rc && o->optimizer)
        return psd_err_wrap(err, "--optimizer"), PSD_EUSAGE;
    if (rc)
        return psd_err_wrap(err, "%s: case %s: %s", o->file, c->id, c->spec), PSD_EDATA;
    if (framed)
        printf("%s\n", c->header);
    rc = o->server ? psd_replay_by_server(c, &groups, o->server, o->job, print_step, &printer, err)
                   : psd_trajectory_run(c, &groups, print_step, &printer, err);
    if (framed && !rc)
        puts("end");
    return rc;
}

/* Replay the picked case, or all. Each is read one ahead, because output of several cases is framed. */
static int replay_cases(psd_golden_t *reader, const options_t *o, psd_err_t *err)
{
    psd_golden_case_t *held = NULL, *next = NULL;
    bool framed = false, done = false;
    int rc = PSD_OK;
    while (!rc && !done) {
        rc = psd_golden_next(reader, &next, err);
        done = !next;
        if (next && o->id && strcmp(next->id, o->id) != 0) {
            psd_golden_case_destroy(&next);
            continue;
        }
        framed |= held && next;
        if (!rc && held)
            rc = replay_case(held, o, framed, err);
        if (!rc && !held && done && !framed)
            rc = o->id ? psd_err_set(err, PSD_EDATA, "%s has no case '%s'", o->file, o->id)
                       : psd_err_set(err, PSD_EDATA, "%s has no case", o->file);
        psd_golden_case_destroy(&held);
        held = next;
        next = NULL;
    }
    psd_golden_case_destroy(&held);
    return rc;
}

static int replay_file(const options_t *o, psd_err_t *err)
{
    const bool standard = strcmp(o->file, "-") == 0;
    FILE *file = standard ? stdin : fopen(o->file, "re");
    if (!file)
        return psd_err_set(err, PSD_ENOINPUT, "%s: %s", o->file, strerror(errno));
    psd_golden_t *reader = psd_golden_new(file, standard ? "standard input" : o->file, err);
    int rc = reader ? replay_cases(reader, o, err) : PSD_ENOMEM;
    psd_golden_destroy(&reader);
    if (!standard)
        fclose(file);
    if (!rc && (fflush(stdout) || ferror(stdout)))
        rc = psd_err_set(err, PSD_EIO, "standard output: %s", strerror(errno));
    return rc;
}

enum { OPTIMIZER, CASE, SERVER, JOB };

static int run(const psd_args_t *args)
{
    const options_t options = { .optimizer = args->flag[OPTIMIZER],
                                .id = args->flag[CASE],
                                .server = args->flag[SERVER],
                                .job = args->flag[JOB],
                                .file = args->word[0] };
    psd_err_t err = { .code = PSD_OK };
    if (options.job && !options.server)
        return psd_verb_misuse(args->verb, "--job goes with --server: it is the job of that psd");
    int rc = replay_file(&options, &err);
    if (rc)
        fprintf(stderr, "psdctl replay: %s\n", err.text);
    return psd_err_exit_code(rc);
}

const psd_verb_t psd_verb_replay = {
    .name = "replay",
    .words = "FILE",
    .does = "run an optimizer on the gradients of a golden file",
    .about =
        "Prints the weights after each step as w records, and the slow weights of Lookahead as x records; for a case of clipping, "
        "the clipped gradients as c records; for a schedule, the learning rates as lr records. FILE may be -, for standard input.",
    .flag = { [OPTIMIZER] = { .key = "optimizer",
                              .type = PSD_OPTION_STRING,
                              .argument = "RULE",
                              .help = "use this rule instead of the case's, such as 'lookahead(adam(lr=1e-3), k=5)'" },
              [CASE] = { .key = "case", .type = PSD_OPTION_STRING, .argument = "ID", .help = "only this case of the file" },
              [SERVER] = { .key = "server",
                           .type = PSD_OPTION_STRING,
                           .argument = "tcp://HOST:PORT",
                           .help = "run the steps on this psd, which must have the same optimizer, instead of in this process; a "
                                   "case with several workers needs a psd with that --workers-min" },
              [JOB] = { .key = "job",
                        .type = PSD_OPTION_STRING,
                        .argument = "NAME",
                        .help = "the job of that psd (default: psd)" } },
    .examples = "psdctl replay --case=adam-defaults tests/golden/adam.txt\n",
    .exits = "",
    .run = run,
};
