/* verify.c - `psdctl verify`: compares a job's weights with those of a single process, after every step, bit for bit. It trains the
 * job as psdctl run does, then repeats its rounds in one process. */
#include "deploy/psdctl/verb.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "deploy/psdctl/run/run.h"
#include "server/core/mode.h"
#include "worker/reference.h"
#include "worker/trace.h"

/* The cluster's trace, and the same steps in one process. */
typedef struct verify {
    const psd_options_t *options;
    char path[64]; /* of the trace */
    uint32_t world;
    uint64_t first, last, lines; /* steps in it, and its number of lines */
    size_t n;                    /* tensors */
    const psd_param_t *params;
    char (*hash)[PSD_SHA256_TEXT]; /* of tensor i after step s: (s - first) * n + i */
} verify_t;

/* The first difference, by step, then by tensor. */
typedef struct difference {
    bool found;
    uint64_t step;
    size_t tensor;
    char sha256[PSD_SHA256_TEXT]; /* the cluster's */
} difference_t;

static int refuse(psd_err_t *err, const char *why) { return psd_err_set(err, PSD_ECONFIG, "%s", why); }

/* Find the trace's last step, and check that the number of workers was always the same. */
static int survey(verify_t *self, FILE *trace, psd_err_t *err)
{
    psd_trace_line_t line;
    for (self->first = UINT64_MAX; psd_trace_read(trace, &line); self->lines++) {
        if (line.world != self->world)
            return psd_err_set(err, PSD_EDIVERGED,
                               "step %" PRIu64 " was made by %u workers, not %u, so one process cannot know which rows were left "
                               "out; set checkpoint.dir and workers.lost=wait, so that lost workers are replaced",
                               line.step, line.world, self->world);
        self->first = line.step < self->first ? line.step : self->first;
        self->last = line.step > self->last ? line.step : self->last;
    }
    if (!feof(trace))
        return psd_err_set(err, PSD_EDATA, "line %" PRIu64 " of the trace %s is malformed", self->lines + 1, self->path);
    const char *saved = psd_options_string(self->options, PSD_OPT_checkpoint_dir);
    return self->lines ? PSD_OK
           : *saved
               ? psd_err_set(err, PSD_EDIVERGED,
                             "the job made no step, because the checkpoints in %s are of its end; set checkpoint.dir to an empty "
                             "directory, or leave it out",
                             saved)
               : psd_err_set(err, PSD_EDIVERGED, "the job made no step; raise stop.steps or stop.epochs");
}

/* Make the same rounds in this process, and keep the hashes of the steps in the trace. */
static int compute(verify_t *self, psd_err_t *err)
{
    psd_setup_t setup;
    int rc = psd_setup_load(&setup, self->options, err);
    psd_reference_t *reference = NULL;
    uint32_t *ranks = calloc(self->world, sizeof *ranks);
    if (!rc) {
        psd_codings_t codings; /* the option table has checked it */
        psd_coding_parse(&codings.push, psd_options_string(self->options, PSD_OPT_codec_push), NULL);
        psd_coding_parse(&codings.pull, psd_options_string(self->options, PSD_OPT_codec_pull), NULL);
        psd_schedule_t schedule;
        psd_schedule_parse(&schedule, psd_options_string(self->options, PSD_OPT_schedule), NULL);
        psd_reduce_t reduce = PSD_REDUCE_MEAN_SAMPLES;
        psd_reduce_find(psd_options_string(self->options, PSD_OPT_sync_reduce), &reduce);
        psd_schedule_unit_find(psd_options_string(self->options, PSD_OPT_schedule_unit), &schedule.unit);
        const psd_reference_config_t config = { .model = setup.model,
                                                .train = setup.train,
                                                .batch = setup.batch,
                                                .shuffle = psd_options_bool(self->options, PSD_OPT_data_shuffle),
                                                .seed = psd_options_uint(self->options, PSD_OPT_seed),
                                                .rule = psd_options_string(self->options, PSD_OPT_optimizer),
                                                .groups = psd_options_string(self->options, PSD_OPT_groups),
                                                .schedule = schedule,
                                                .reduce = reduce,
                                                .accumulate = (uint32_t)psd_options_int(self->options, PSD_OPT_sync_accumulate),
                                                .clip = { .value = psd_options_double(self->options, PSD_OPT_clip_value),
                                                          .norm = psd_options_double(self->options, PSD_OPT_clip_norm) },
                                                .codings = codings,
                                                .state = &setup.state,
                                                .partial = psd_options_bool(self->options, PSD_OPT_init_partial),
                                                .world = self->world };
        self->n = psd_model_n_params(setup.model);
        self->hash = calloc((self->last - self->first + 1) * self->n, sizeof *self->hash);
        reference = psd_reference_new(&config, err);
        if (!reference)
            rc = err->code;
        else if (!self->hash || !ranks)
            rc = psd_err_set(err, PSD_ENOMEM, "no memory for %" PRIu64 " steps", self->last);
    }
    for (uint32_t r = 0; !rc && r < self->world; r++)
        ranks[r] = r;
    for (uint64_t step = 1; !rc && step <= self->last; step++) {
        psd_reference_round(reference, step, self->world, ranks, self->world);
        for (size_t i = 0; step >= self->first && i < self->n; i++)
            psd_reference_hash_of(reference, i, self->hash[(step - self->first) * self->n + i]);
    }
    psd_reference_destroy(&reference);
    psd_setup_clear(&setup);
    free(ranks);
    return rc;
}

/* Lines of a step follow the model's order, so the tensor is the line's place among those of its step. */
static difference_t compare(const verify_t *self, FILE *trace)
{
    difference_t first = { 0 };
    psd_trace_line_t line;
    rewind(trace);
    for (uint64_t at = 0; psd_trace_read(trace, &line); at++) {
        const size_t i = at % self->n;
        if (!strcmp(line.sha256, self->hash[(line.step - self->first) * self->n + i]))
            continue;
        if (!first.found || line.step < first.step || (line.step == first.step && i < first.tensor)) {
            first = (difference_t){ .found = true, .step = line.step, .tensor = i };
            memcpy(first.sha256, line.sha256, sizeof first.sha256);
        }
    }
    return first;
}

/* The name of the i-th tensor; the trace repeats the list at each step. */
static void name_tensor(FILE *trace, size_t i, psd_trace_line_t *out)
{
    rewind(trace);
    for (size_t k = 0; k <= i && psd_trace_read(trace, out); k++)
        ;
}

static int check(verify_t *self, psd_err_t *err)
{
    FILE *trace = fopen(self->path, "re");
    if (!trace)
        return psd_err_set(err, PSD_EIO, "the trace %s has disappeared", self->path);
    int rc = survey(self, trace, err);
    rc = rc ? rc : compute(self, err);
    if (!rc) {
        const difference_t d = compare(self, trace);
        psd_trace_line_t line;
        name_tensor(trace, d.tensor, &line);
        if (d.found)
            rc = psd_err_set(err, PSD_EDIVERGED, "step %" PRIu64 ", tensor %s: the cluster has %.16s, one process %.16s", d.step,
                             line.tensor, d.sha256, self->hash[(d.step - self->first) * self->n + d.tensor]);
        else
            printf("%s %" PRIu64 " to %" PRIu64 ", %zu tensors, %u workers, %" PRId64 " servers: %" PRIu64
                   " hashes, all equal to those of one process\n",
                   psd_options_int(self->options, PSD_OPT_sync_accumulate) > 1 ? "rounds" : "steps", self->first, self->last,
                   self->n, self->world, psd_options_int(self->options, PSD_OPT_servers), self->lines);
    }
    fclose(trace);
    free(self->hash);
    return rc;
}

/* Train the job with a trace. */
static int run_job(const verify_t *self, int argc, char **argv)
{
    char flag[80];
    char **words = calloc((size_t)argc + 2, sizeof *words);
    if (!words)
        return psd_err_exit_code(PSD_ENOMEM);
    memcpy(words, argv, (size_t)argc * sizeof *words);
    snprintf(flag, sizeof flag, "--trace=%s", self->path);
    words[argc] = flag;
    const int code = psd_ctl_run(argc + 1, words);
    free(words);
    return code;
}

static int prepare(verify_t *self, psd_err_t *err)
{
    const int64_t least = psd_options_int(self->options, PSD_OPT_workers_min),
                  want = psd_options_int(self->options, PSD_OPT_workers_want);
    self->world = (uint32_t)(want > least ? want : least);
    if (!psd_mode_has_rounds(psd_mode_find(psd_options_string(self->options, PSD_OPT_sync_mode))))
        return refuse(err, "only bsp has a reproducible result: in asp it depends on the order of arrival; set sync.mode to bsp");
    if (psd_options_file_is_stream(self->options))
        return refuse(err, "verify must read the job file twice, which a pipe does not allow; write it to a file");
    if (!psd_options_uint(self->options, PSD_OPT_stop_steps) && !(psd_options_double(self->options, PSD_OPT_stop_epochs) > 0))
        return refuse(err, "nothing ends the job: set stop.epochs or stop.steps");
    const psd_option_id_t stream = psd_options_stream(self->options);
    if (stream != PSD_N_OPTIONS)
        return psd_err_set(
            err, PSD_ECONFIG, "%s: %s names %s, which can be read only once, but verify reads it twice; write it to a file",
            psd_options_origin(self->options, stream), psd_option_at(stream)->key, psd_options_text(self->options, stream));
    if (*psd_options_string(self->options, PSD_OPT_trace))
        return refuse(err, "verify sets trace itself; leave it out");
    snprintf(self->path, sizeof self->path, "/tmp/psd-verify-XXXXXX");
    const int fd = mkstemp(self->path);
    if (fd < 0)
        return psd_err_set(err, PSD_EIO, "cannot make a file below /tmp for the trace");
    close(fd);
    return PSD_OK;
}

static int run(const psd_args_t *args)
{
    psd_err_t err = { 0 };
    psd_options_t *options = psd_options_new(PSD_PROGRAM_CTL);
    if (!options)
        return psd_err_exit_code(PSD_ENOMEM);
    verify_t self = { .options = options };
    int code = 0, rc = psd_options_load(options, args->argc, args->argv, &err);
    if (rc < 0 && *psd_options_complaints(options))
        snprintf(err.text, sizeof err.text, "%s", psd_options_complaints(options));
    if (rc == PSD_OK)
        rc = prepare(&self, &err);
    if (rc == PSD_OK && !(code = run_job(&self, args->argc, args->argv)))
        rc = check(&self, &err);
    if (*self.path)
        unlink(self.path);
    if (rc < 0)
        fprintf(stderr, "psdctl verify: %s\n", err.text);
    psd_options_destroy(&options);
    return rc < 0 ? psd_err_exit_code(rc) : code;
}

const psd_verb_t psd_verb_verify = {
    .name = "verify",
    .words = "[JOB]",
    .does = "train a job, and compare it bit for bit with a single process",
    .about = "Only bsp has one right result.",
    .options = PSD_PROGRAM_CTL,
    .is_raw = true,
    .examples = "psdctl verify deploy/examples/glyphs.yaml --stop-epochs=1\n",
    .exits = "1 when a hash differs, or the rounds cannot be repeated",
    .run = run,
};
