/* checkpoint.c - `psdctl checkpoint` and `psdctl inspect`: lists, verifies and prunes checkpoints, and shows a file's contents. */
#include "deploy/psdctl/verb.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/system/safetensors.h"
#include "deploy/psdctl/say.h"
#include "server/checkpoint/checkpoint.h"

enum { MOST_LISTED = 10000, SHOWN = 60 /* characters of a note that are shown */ };

/* ---- checkpoint ---- */

/* Read the whole text as a whole number. */
static bool number(const char *text, uint64_t *out)
{
    char again[24];
    *out = strtoull(text, NULL, 10);
    snprintf(again, sizeof again, "%" PRIu64, *out);
    const size_t zeros = strspn(text, "0");
    return *text && strcmp(text + (zeros && !text[zeros] ? zeros - 1 : zeros), again) == 0;
}

/* All manifests below the directory; NULL, after an error message, when there is none. */
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

static int list(const psd_args_t *args)
{
    size_t n;
    int code = 0;
    const char *dir = args->word[0];
    uint64_t *clocks = find(dir, &n);
    if (!clocks)
        return psd_err_exit_code(PSD_ENOINPUT);
    printf("%12s %12s %7s %7s %10s  %s\n", "clock", "steps", "servers", "tensors", "lr", "job");
    for (size_t i = 0; i < n; i++) {
        psd_err_t err = { 0 };
        psd_ckpt_facts_t facts = { 0 };
        psd_tensor_list_t model = { 0 };
        double momentum;
        int rc = psd_ckpt_check(dir, clocks[i], &err);
        if (!rc)
            rc = psd_ckpt_read(dir, clocks[i], &facts, &model, &err);
        printf("%12" PRIu64 " ", clocks[i]);
        if (rc == PSD_OK)
            printf("%12" PRIu64 " %7" PRIu32 " %7" PRIu32 " %10.4g  ", facts.version, facts.n_shards, model.n,
                   psd_ckpt_next_lr(&facts, model.rows, &momentum));
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

static int verify(const psd_args_t *args)
{
    size_t n;
    uint64_t clock;
    int code = 0;
    const char *dir = args->word[0], *only = args->word[1];
    if (only && !number(only, &clock))
        return psd_verb_misuse(args->verb, "CLOCK is a whole number, as psdctl checkpoint list shows it; not %s", only);
    if (only)
        return verify_one(dir, clock);
    uint64_t *clocks = find(dir, &n);
    if (!clocks)
        return psd_err_exit_code(PSD_ENOINPUT);
    for (size_t i = 0; i < n; i++) {
        const int rc = verify_one(dir, clocks[i]);
        code = code ? code : rc;
    }
    free(clocks);
    return code;
}

/* Prints and counts the files to remove. */
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

enum { KEEP, YES };

static int prune(const psd_args_t *args)
{
    psd_err_t err = { 0 };
    const bool yes = args->flag[YES];
    const uint64_t keep = args->value[KEEP].u;
    told_t told = { yes ? "removing" : "would remove", 0 };
    if (keep < 2 || keep > UINT32_MAX)
        return psd_verb_misuse(args->verb, "give --keep=N, N at least 2, because one may be damaged");
    if (psd_ckpt_prune(args->word[0], (uint32_t)keep, !yes, tell, &told, &err) != PSD_OK)
        return psd_say_error("checkpoint", &err);
    if (!told.n)
        printf("nothing to remove\n");
    else if (!yes)
        printf("nothing was removed; add --yes to remove them\n");
    return 0;
}

#define EXITS "65 when something is damaged; 66 when there is none"

const psd_verb_t psd_verb_checkpoint_list = {
    .name = "checkpoint list",
    .words = "DIR",
    .does = "list the checkpoints below a checkpoint.dir, newest first",
    .about = "",
    .examples = "psdctl checkpoint list runs/glyphs/checkpoints\n",
    .exits = EXITS,
    .run = list,
};

const psd_verb_t psd_verb_checkpoint_verify = {
    .name = "checkpoint verify",
    .words = "DIR [CLOCK]",
    .does = "read all checkpoints, or one, and check every CRC",
    .about = "",
    .examples = "psdctl checkpoint verify runs/glyphs/checkpoints 2350\n",
    .exits = EXITS,
    .run = verify,
};

const psd_verb_t psd_verb_checkpoint_prune = {
    .name = "checkpoint prune",
    .words = "DIR",
    .does = "remove all checkpoints but the newest N",
    .about = "Without --yes it only lists the checkpoints it would remove.",
    .flag = { [KEEP] = { .key = "keep",
                         .type = PSD_OPTION_UINT64,
                         .argument = "N",
                         .help = "number of checkpoints to keep, at least 2" },
              [YES] = { .key = "yes", .type = PSD_OPTION_SWITCH, .help = "remove the others" } },
    .examples = "psdctl checkpoint prune runs/glyphs/checkpoints --keep=3 --yes\n",
    .exits = EXITS,
    .run = prune,
};

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
    return json_pack("{s:s, s:s, s:o, s:[I, I]}", "name", entry->name, "dtype", entry->dtype, "shape", shape, "data_offsets",
                     (json_int_t)entry->begin, (json_int_t)entry->end);
}

static void print_json(const psd_safetensors_t *st)
{
    json_t *arrays = json_array(), *notes = json_object();
    for (size_t i = 0; i < st->n_entries; i++)
        json_array_append_new(arrays, entry_json(&st->entry[i]));
    for (size_t i = 0; i < st->n_notes; i++)
        json_object_set_new(notes, st->note[i].key, json_string(st->note[i].value));
    json_t *root = json_pack("{s:I, s:I, s:o, s:o}", "data_begin", (json_int_t)st->n_bytes, "data_bytes", (json_int_t)st->n_data,
                             "metadata", notes, "arrays", arrays);
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

static int run_inspect(const psd_args_t *args) { return inspect(args->word[0], args->flag[0]); }

const psd_verb_t psd_verb_inspect = {
    .name = "inspect",
    .words = "FILE",
    .does = "arrays and notes of a safetensors file",
    .about = "",
    .flag = { { .key = "json", .type = PSD_OPTION_SWITCH, .help = "as one object, notes in full" } },
    .examples = "psdctl inspect model.safetensors\n",
    .exits = "65 when it is damaged",
    .run = run_inspect,
};
