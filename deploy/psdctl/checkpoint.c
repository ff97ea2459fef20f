#include "deploy/psdctl/checkpoint.h"

#include <getopt.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/safetensors.h"
#include "deploy/psdctl/admin.h"
#include "deploy/psdctl/say.h"
#include "server/checkpoint.h"

enum { MOST_LISTED = 10000, SHOWN = 60 /* characters of a note that people see */ };

static const char usage[] =
    "Usage: psdctl checkpoint list DIR             what is saved below DIR, newest first\n"
    "       psdctl checkpoint verify DIR [CLOCK]   read all of it, or one, and compare each CRC\n"
    "       psdctl checkpoint save [--help]        have a running job write one now\n"
    "       psdctl checkpoint prune DIR --keep N   what is older than the newest N, N >= 2;\n"
    "                                              --yes removes it\n";

static const char inspect_usage[] = "Usage: psdctl inspect [--json] FILE\n"
                                    "Print the arrays and notes of a safetensors file.\n"
                                    "  --json   as one object, notes in full\n";

/* ---- checkpoint ---- */

typedef struct request {
    const char *what, *dir, *clock; /* clock NULL: all */
    uint64_t keep;                  /* 0: not given */
    bool yes;
} request_t;

/* Read a whole number, all of the text. */
static bool number(const char *text, uint64_t *out)
{
    char again[24];
    *out = strtoull(text, NULL, 10);
    snprintf(again, sizeof again, "%" PRIu64, *out);
    const size_t zeros = strspn(text, "0");
    return *text && strcmp(text + (zeros && !text[zeros] ? zeros - 1 : zeros), again) == 0;
}

/* All manifests below the directory; NULL, having said so, when there is none. */
static uint64_t *find(const char *dir, size_t *n)
{
    uint64_t *clocks = malloc(MOST_LISTED * sizeof *clocks);
    *n = clocks ? psd_ckpt_manifests(dir, clocks, MOST_LISTED) : 0;
    if (*n)
        return clocks;
    free(clocks);
    fprintf(stderr, "psdctl checkpoint: there is no checkpoint below %s\n", dir);
    return NULL;
}

static int list(const request_t *request)
{
    size_t n;
    int code = 0;
    uint64_t *clocks = find(request->dir, &n);
    if (!clocks)
        return psd_err_exit_code(PSD_ENOINPUT);
    printf("%12s %12s %7s %7s %10s  %s\n", "clock", "steps", "servers", "tensors", "lr", "job");
    for (size_t i = 0; i < n; i++) {
        psd_err_t err = { 0 };
        psd_ckpt_facts_t facts = { 0 };
        psd_tensor_list_t model = { 0 };
        int rc = psd_ckpt_check(request->dir, clocks[i], &err);
        if (!rc)
            rc = psd_ckpt_read(request->dir, clocks[i], &facts, &model, &err);
        printf("%12" PRIu64 " ", clocks[i]);
        if (rc == PSD_OK)
            printf("%12" PRIu64 " %7" PRIu32 " %7" PRIu32 " %10.4g  ", facts.version, facts.n_shards, model.n,
                   facts.lr);
        else
            code = psd_err_exit_code(rc);
        psd_say_text(stdout, rc == PSD_OK ? facts.job : err.text, SIZE_MAX);
        putchar('\n');
        psd_ckpt_facts_clear(&facts);
        psd_tensors_clear(&model);
    }
    free(clocks);
    return code;
}

static int verify_one(const char *dir, uint64_t clock)
{
    psd_err_t err = { 0 };
    if (psd_ckpt_verify(dir, clock, &err) != PSD_OK)
        return psd_say_error("checkpoint", &err);
    printf("clock %" PRIu64 " is whole\n", clock);
    return 0;
}

static int verify(const request_t *request)
{
    size_t n;
    uint64_t clock;
    int code = 0;
    if (request->clock) {
        if (number(request->clock, &clock))
            return verify_one(request->dir, clock);
        fprintf(stderr, "psdctl checkpoint: CLOCK is a whole number, not %s\n", request->clock);
        return psd_err_exit_code(PSD_EUSAGE);
    }
    uint64_t *clocks = find(request->dir, &n);
    if (!clocks)
        return psd_err_exit_code(PSD_ENOINPUT);
    for (size_t i = 0; i < n; i++) {
        const int rc = verify_one(request->dir, clocks[i]);
        code = code ? code : rc;
    }
    free(clocks);
    return code;
}

/* What is told of each file that goes, and how many there were. */
typedef struct told {
    const char *verb;
    unsigned n;
} told_t;

static void tell(void *arg, const char *path)
{
    told_t *told = arg;
    printf("%s %s\n", told->verb, path);
    told->n++;
}

static int prune(const request_t *request)
{
    psd_err_t err = { 0 };
    told_t told = { request->yes ? "removing" : "would remove", 0 };
    if (request->keep < 2 || request->keep > UINT32_MAX) {
        fprintf(stderr,
                "psdctl checkpoint: prune needs --keep N, N at least 2: one may turn out to be damaged\n");
        return psd_err_exit_code(PSD_EUSAGE);
    }
    if (psd_ckpt_prune(request->dir, (uint32_t)request->keep, !request->yes, tell, &told, &err) != PSD_OK)
        return psd_say_error("checkpoint", &err);
    if (!told.n)
        printf("nothing to remove\n");
    else if (!request->yes)
        printf("nothing was removed; --yes does it\n");
    return 0;
}

static const struct action {
    const char *name;
    int (*run)(const request_t *request);
    bool takes_clock, takes_keep;
} actions[] = { { "list", list, false, false },
                { "verify", verify, true, false },
                { "prune", prune, false, true } };

static int misuse(const char *why, const char *what)
{
    fprintf(stderr, "psdctl checkpoint: %s%s; see psdctl checkpoint --help\n", why, what);
    return psd_err_exit_code(PSD_EUSAGE);
}

/* Options into `request`; 1: help was asked for, PSD_EUSAGE: said what is wrong. */
static int read_options(int argc, char **argv, request_t *request)
{
    static const struct option known[] = { { "keep", required_argument, NULL, 'k' },
                                           { "yes", no_argument, NULL, 'y' },
                                           { "help", no_argument, NULL, 'h' },
                                           { 0 } };
    optind = 0;
    for (int c; (c = getopt_long(argc, argv, ":h", known, NULL)) != -1;) {
        if (c == 'h')
            return 1;
        if (c == 'y')
            request->yes = true;
        else if (c != 'k')
            return misuse(c == ':' ? "a value lacks after " : "unknown option ", argv[optind - 1]),
                   PSD_EUSAGE;
        else if (!number(optarg, &request->keep))
            return misuse("--keep is a whole number, not ", optarg), PSD_EUSAGE;
    }
    return PSD_OK;
}

int psd_ctl_checkpoint(int argc, char **argv)
{
    static char save[] = "psdctl checkpoint save";
    if (argc > 1 && strcmp(argv[1], "save") == 0) {
        argv[1] = save;
        return psd_ctl_admin(argc - 1, argv + 1);
    }
    request_t request = { 0 };
    const int rc = read_options(argc, argv, &request);
    if (rc == 1)
        return fputs(usage, stdout), 0;
    if (rc != PSD_OK)
        return psd_err_exit_code(rc);
    const int n = argc - optind;
    if (n == 0)
        return fputs(usage, stderr), psd_err_exit_code(PSD_EUSAGE);
    request.what = argv[optind];
    request.dir = n > 1 ? argv[optind + 1] : NULL;
    request.clock = n > 2 ? argv[optind + 2] : NULL;
    for (size_t i = 0; i < sizeof actions / sizeof *actions; i++) {
        if (strcmp(actions[i].name, request.what) != 0)
            continue;
        if (n < 2)
            return misuse("DIR lacks after ", request.what);
        if (n > 2 + actions[i].takes_clock)
            return misuse("one too many: ", argv[optind + 2 + actions[i].takes_clock]);
        if (!actions[i].takes_keep && (request.keep || request.yes))
            return misuse("--keep and --yes are for prune, not for ", request.what);
        return actions[i].run(&request);
    }
    return misuse("list, verify, save or prune; not ", request.what);
}

/* ---- inspect ---- */

static void print_human(const psd_safetensors_t *st)
{
    psd_say_text(stdout, st->path, SIZE_MAX);
    printf(": %zu arrays, %" PRIu64 " bytes of data from byte %zu\n", st->n_entries, st->n_data, st->n_bytes);
    for (size_t i = 0; i < st->n_notes; i++) {
        const size_t length = strlen(st->note[i].value);
        printf("  ");
        psd_say_text(stdout, st->note[i].key, SIZE_MAX);
        printf(" = ");
        psd_say_text(stdout, st->note[i].value, SHOWN);
        printf(length > SHOWN ? "... (%zu characters)\n" : "\n", length);
    }
    for (size_t i = 0; i < st->n_entries; i++) {
        const psd_entry_t *entry = &st->entry[i];
        printf("  %-8s [", entry->dtype);
        for (size_t k = 0; k < entry->n_dims; k++)
            printf("%s%" PRIu64, k ? ", " : "", entry->shape[k]);
        printf("] %" PRIu64 " bytes  ", entry->end - entry->begin);
        psd_say_text(stdout, entry->name, SIZE_MAX);
        putchar('\n');
    }
}

static json_t *entry_json(const psd_entry_t *entry)
{
    json_t *shape = json_array();
    for (size_t k = 0; k < entry->n_dims; k++)
        json_array_append_new(shape, json_integer((json_int_t)entry->shape[k]));
    return json_pack("{s:s, s:s, s:o, s:[I, I]}", "name", entry->name, "dtype", entry->dtype, "shape", shape,
                     "data_offsets", (json_int_t)entry->begin, (json_int_t)entry->end);
}

static void print_json(const psd_safetensors_t *st)
{
    json_t *arrays = json_array(), *notes = json_object();
    for (size_t i = 0; i < st->n_entries; i++)
        json_array_append_new(arrays, entry_json(&st->entry[i]));
    for (size_t i = 0; i < st->n_notes; i++)
        json_object_set_new(notes, st->note[i].key, json_string(st->note[i].value));
    json_t *root = json_pack("{s:I, s:I, s:o, s:o}", "data_begin", (json_int_t)st->n_bytes, "data_bytes",
                             (json_int_t)st->n_data, "metadata", notes, "arrays", arrays);
    json_dumpf(root, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(root);
}

static int inspect(const char *path, bool as_json)
{
    psd_err_t err = { 0 };
    psd_safetensors_t st;
    int rc = psd_safetensors_open(&st, path, &err);
    if (!rc)
        rc = psd_safetensors_parse(&st, &err);
    if (rc)
        rc = psd_say_error("inspect", &err);
    else if (as_json)
        print_json(&st);
    else
        print_human(&st);
    psd_safetensors_close(&st);
    return rc;
}

int psd_ctl_inspect(int argc, char **argv)
{
    static const struct option known[] = { { "json", no_argument, NULL, 'j' },
                                           { "help", no_argument, NULL, 'h' },
                                           { 0 } };
    bool as_json = false;
    optind = 0;
    for (int c; (c = getopt_long(argc, argv, ":h", known, NULL)) != -1;) {
        if (c == 'h')
            return fputs(inspect_usage, stdout), 0;
        if (c != 'j') {
            fprintf(stderr, "psdctl inspect: unknown option %s; see psdctl inspect --help\n",
                    argv[optind - 1]);
            return psd_err_exit_code(PSD_EUSAGE);
        }
        as_json = true;
    }
    if (argc - optind == 1)
        return inspect(argv[optind], as_json);
    fprintf(stderr, "psdctl inspect: one FILE is wanted, %d given\n", argc - optind);
    return psd_err_exit_code(PSD_EUSAGE);
}
