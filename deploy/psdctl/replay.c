#include "deploy/psdctl/replay.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "psd/worker.h"

/* ---- by a server ---- */

/* The failure of a call of the worker library; its codes are ours. */
static int worker_error(const psd_worker_t *worker, int code, const char *doing, psd_err_t *err)
{
    return psd_err_set(err, code, "%s: %s", doing, worker ? psd_worker_error(worker) : psd_strerror(code));
}

static int check_case(const psd_golden_case_t *c, psd_err_t *err)
{
    for (size_t i = 0; i < c->n_steps; i++) {
        if (c->steps[i].has_lr)
            return psd_err_set(
                err, PSD_EUSAGE,
                "case %s changes its learning rate (lr lines), which a server's own schedule decides; "
                "replay it without --server",
                c->id);
        if (!c->steps[i].g)
            return psd_err_set(err, PSD_EUSAGE,
                               "case %s has several workers (gw lines), and --server replays as one; "
                               "replay it without --server",
                               c->id);
    }
    return PSD_OK;
}

/* The servers' settings must have "optimizer=" and exactly this rule. */
static int check_optimizer(const psd_worker_t *worker, const psd_rule_t *rule, psd_err_t *err)
{
    char wanted[PSD_RULE_TEXT];
    const char *settings = psd_worker_settings(worker);
    const char *found = settings ? strstr(settings, "optimizer=") : NULL;
    psd_rule_print(rule, wanted);
    const size_t n = strlen(wanted);
    if (!found)
        return psd_err_set(err, PSD_EREFUSED, "the server does not say which optimizer it runs");
    found += strlen("optimizer=");
    if (strncmp(found, wanted, n) == 0 && (found[n] == ' ' || found[n] == '\0'))
        return PSD_OK;
    /* The rule ends where its brackets close. */
    size_t end = strcspn(found, "(");
    for (int depth = found[end] == '(' ? 1 : 0; depth > 0 && found[end]; end++)
        depth += (found[end + 1] == '(') - (found[end + 1] == ')');
    return psd_err_set(err, PSD_EREFUSED, "the server runs %.*s, but this replay needs %s", (int)(end + 1),
                       found, wanted);
}

/* Register the weights as the model, and make sure that they were taken as they are. */
static int register_weights(psd_worker_t *worker, const psd_golden_case_t *c, float *w, psd_err_t *err)
{
    const uint64_t shape[] = { c->n };
    const psd_tensor_t tensor = { .name = "w", .shape = shape, .n_dims = 1, .data = w };
    memcpy(w, c->w0, c->n * sizeof *w);
    const int rc = psd_worker_register(worker, &tensor, 1);
    if (rc)
        return worker_error(worker, rc, "register", err);
    const uint64_t version = psd_worker_position(worker).version;
    if (version != 0 || memcmp(w, c->w0, c->n * sizeof *w) != 0)
        return psd_err_set(err, PSD_EREFUSED,
                           "the server's model is already trained (version %" PRIu64
                           "); a replay needs a fresh job",
                           version);
    return PSD_OK;
}

static int exchange_all(psd_worker_t *worker, const psd_golden_case_t *c, bool lookahead, float *w,
                        float *slow, psd_trajectory_each_t *each, void *arg, psd_err_t *err)
{
    for (size_t t = 1; t <= c->n_steps; t++) {
        const float *g = c->steps[t - 1].g;
        psd_ticket_t ticket;
        int rc = psd_worker_exchange(worker, &g, 1, 0.0, &ticket);
        if (!rc)
            rc = psd_worker_wait(worker, ticket, 60000);
        if (!rc && lookahead)
            rc = psd_worker_pull_slow(worker, &slow, 60000);
        if (rc)
            return worker_error(worker, rc, "exchange", err);
        each(arg, t, w, lookahead ? slow : NULL);
    }
    return PSD_OK;
}

int psd_replay_by_server(const psd_golden_case_t *c, const psd_rule_t *rule, const char *join,
                         const char *job, psd_trajectory_each_t *each, void *arg, psd_err_t *err)
{
    const psd_worker_config_t config = { .size = sizeof config, .join = join, .job = job };
    psd_worker_t *worker = NULL;
    int rc = check_case(c, err);
    if (rc)
        return rc;
    float *w = calloc(2 * c->n, sizeof *w);
    if (!w)
        return psd_err_set(err, PSD_ENOMEM, "no memory to replay %zu weights", c->n);
    rc = psd_worker_connect(&worker, &config);
    if (rc)
        rc = worker_error(worker, rc, join, err);
    if (!rc)
        rc = check_optimizer(worker, rule, err);
    if (!rc)
        rc = register_weights(worker, c, w, err);
    if (!rc)
        rc = exchange_all(worker, c, rule->lookahead, w, w + c->n, each, arg, err);
    if (!rc && (rc = psd_worker_leave(worker, 1, 10000)) != 0)
        rc = worker_error(worker, rc, "leave", err);
    psd_worker_close(&worker);
    free(w);
    return rc;
}

/* ---- the verb ---- */

typedef struct options {
    const char *optimizer, *id, *server, *job, *file;
} options_t;

static const char usage[] =
    "Usage: psdctl replay [--optimizer RULE] [--case ID] [--server tcp://HOST:PORT] [--job NAME] FILE\n"
    "Step an optimizer along the gradients of a golden FILE ('-': standard input) and print the weights "
    "after\n"
    "each step, as w records; the slow weights of Lookahead as x records.\n"
    "  --optimizer RULE   instead of the case's own, such as 'lookahead(adam(lr=1e-3), k=5)'\n"
    "  --case ID          this case of the file alone\n"
    "  --server ADDRESS   by a running psd, whose optimizer must be the same, instead of in this process\n"
    "  --job NAME         the job of that psd (default: psd)\n";

/* PSD_OK, PSD_EUSAGE, or PSD_ESTOPPED after --help. */
static int read_options(int argc, char **argv, options_t *out, psd_err_t *err)
{
    static const struct option known[] = { { "optimizer", required_argument, NULL, 'o' },
                                           { "case", required_argument, NULL, 'c' },
                                           { "server", required_argument, NULL, 's' },
                                           { "job", required_argument, NULL, 'j' },
                                           { "help", no_argument, NULL, 'h' },
                                           { 0 } };
    optind = 0;
    for (int c; (c = getopt_long(argc, argv, ":", known, NULL)) != -1;) {
        if (c == 'o')
            out->optimizer = optarg;
        else if (c == 'c')
            out->id = optarg;
        else if (c == 's')
            out->server = optarg;
        else if (c == 'j')
            out->job = optarg;
        else if (c == 'h')
            return fputs(usage, stdout), PSD_ESTOPPED;
        else
            return psd_err_set(err, PSD_EUSAGE, "%s '%s'; see psdctl replay --help",
                               c == ':' ? "a value is missing after" : "unknown option", argv[optind - 1]);
    }
    if (optind + 1 != argc)
        return psd_err_set(err, PSD_EUSAGE, "one FILE is needed, %d given; see psdctl replay --help",
                           argc - optind);
    if (out->job && !out->server)
        return psd_err_set(err, PSD_EUSAGE, "--job goes with --server");
    out->file = argv[optind];
    return PSD_OK;
}

/* Who prints the records of a case. */
typedef struct printer {
    size_t n; /* weights */
} printer_t;

static void print_step(void *arg, size_t t, const float *w, const float *slow)
{
    const printer_t *self = arg;
    psd_golden_print(stdout, 'w', t, w, self->n);
    if (slow)
        psd_golden_print(stdout, 'x', t, slow, self->n);
}

static int replay_case(const psd_golden_case_t *c, const options_t *o, bool framed, psd_err_t *err)
{
    psd_rule_t rule;
    printer_t printer = { .n = c->n };
    int rc = psd_rule_parse(&rule, o->optimizer ? o->optimizer : c->spec, err);
    if (rc && o->optimizer)
        return psd_err_wrap(err, "--optimizer"), PSD_EUSAGE;
    if (rc)
        return psd_err_wrap(err, "%s: case %s: %s", o->file, c->id, c->spec), PSD_EDATA;
    if (framed)
        printf("%s\n", c->header);
    rc = o->server ? psd_replay_by_server(c, &rule, o->server, o->job, print_step, &printer, err)
                   : psd_trajectory_run(c, &rule, print_step, &printer, err);
    if (framed && !rc)
        puts("end");
    return rc;
}

/* Replay the picked case, or all; one is held back until it is known whether another follows, which frames
 * them. */
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

int psd_ctl_replay(int argc, char **argv)
{
    options_t options = { .file = NULL };
    psd_err_t err = { .code = PSD_OK };
    int rc = read_options(argc, argv, &options, &err);
    if (rc == PSD_ESTOPPED)
        return 0;
    if (!rc)
        rc = replay_file(&options, &err);
    if (rc)
        fprintf(stderr, "psdctl replay: %s\n", err.text);
    return psd_err_exit_code(rc);
}
