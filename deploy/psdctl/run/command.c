#include "deploy/psdctl/run/command.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "deploy/psdctl/run/agent.h"
#include "deploy/psdctl/run/run.h"

static void add(psd_command_t *self, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void add(psd_command_t *self, const char *format, ...)
{
    va_list list;
    assert(self->n < PSD_COMMAND_WORDS);
    va_start(list, format);
    if (vasprintf(&self->word[self->n], format, list) < 0)
        abort(); /* no memory to start a job with */
    va_end(list);
    self->word[++self->n] = NULL;
}

void psd_command_clear(psd_command_t *self)
{
    while (self->n)
        free(self->word[--self->n]);
}

/* Options that are set per child; all others are passed on as given. */
static const psd_option_id_t of_run[] = { PSD_OPT_listen,  PSD_OPT_advertise, PSD_OPT_join,          PSD_OPT_status_listen,
                                          PSD_OPT_run_dir, PSD_OPT_progress,  PSD_OPT_workers_min,   PSD_OPT_workers_want,
                                          PSD_OPT_servers, PSD_OPT_insecure,  PSD_OPT_server_public, PSD_N_OPTIONS };

static bool is_one_of(psd_option_id_t id, const psd_option_id_t *all)
{
    while (*all != PSD_N_OPTIONS && *all != id)
        all++;
    return *all != PSD_N_OPTIONS;
}

/* Pass the flags of this command line to a child of `program`, except for the options `decided`. The child reads file and
 * environment itself, unless it is on another host, or the file can be read only once. */
static void add_flags(psd_command_t *self, const psd_options_t *options, psd_program_t program, const psd_option_id_t *decided,
                      bool is_far)
{
    for (psd_option_id_t id = 0; id < PSD_N_OPTIONS; id++) {
        const psd_option_t *row = psd_option_at(id);
        const char *origin = psd_options_origin(options, id);
        char flag[PSD_OPTION_TEXT];
        psd_option_flag(row->key, flag, sizeof flag);
        if ((row->programs & program) && !is_one_of(id, decided) &&
            (is_far || psd_options_file_is_stream(options) ? strcmp(origin, "default") != 0 : strcmp(origin, flag) == 0))
            add(self, "%s=%s", flag, psd_options_text(options, id));
    }
}

static void begin(psd_command_t *self)
{
    add(self, "psdctl");
    add(self, PSD_CTL_CHILD);
    add(self, "%ld", (long)getpid());
}

/* Add a variable for the user's program, which psd_ctl_child puts into its environment. */
static void add_variable(psd_command_t *self, psd_option_id_t id, const char *value)
{
    char name[PSD_OPTION_TEXT];
    psd_option_variable(psd_option_at(id)->key, name, sizeof name);
    add(self, "%s=%s", name, value);
}

static void begin_program(psd_command_t *self, const psd_command_facts_t *facts, const char *program)
{
    *self = (psd_command_t){ .n = 0 };
    if (facts->bin)
        begin(self);
    if (facts->bin)
        add(self, "%s/%s", facts->bin, strcmp(program, "psd") == 0 ? PSD_PROGRAM_NAME : program);
    else
        add(self, "%s", program);
}

/* All children of psdctl run are on this machine, so they do not need keys. */
static void add_security(psd_command_t *self, const psd_command_facts_t *facts, psd_program_t program)
{
    const bool has_keys = *facts->server_public;
    add(self, "--insecure=%s", has_keys ? "false" : "true");
    if (has_keys && program == PSD_PROGRAM_WORKER)
        add(self, "--server-public=%s", facts->server_public);
}

static void end(psd_command_t *self, const psd_options_t *options, const char *run_dir, bool is_far)
{
    add(self, "--run-dir=%s", run_dir);
    if (*psd_options_file(options) && !is_far && !psd_options_file_is_stream(options))
        add(self, "%s", psd_options_file(options));
}

static void add_short_interval(psd_command_t *self, const psd_options_t *options)
{
    if (strcmp(psd_options_origin(options, PSD_OPT_progress_interval), "default") == 0)
        add(self, "--progress-interval=250ms");
}

/* Server 0 gets the configured address, because the others must find it; other servers take any port. A restarted server gets its
 * previous address, which its peers know. */
static void add_place(psd_command_t *self, const psd_command_facts_t *facts, psd_option_id_t id, const char *any,
                      const char *before)
{
    char flag[64];
    bool given = strcmp(psd_options_origin(facts->options, id), "default") != 0;
    const char *text = psd_options_string(facts->options, id);
    if (strcmp(text, "none") != 0 && !(given && facts->index == 0))
        text = any;
    const char *port = strrchr(text, ':'), *port_before = before ? strrchr(before, ':') : NULL;
    psd_option_flag(psd_option_at(id)->key, flag, sizeof flag);
    if (port && strcmp(port, ":0") == 0 && port_before)
        add(self, "%s=%.*s%s", flag, (int)(port - text), text, port_before);
    else
        add(self, "%s=%s", flag, text);
}

void psd_command_server(psd_command_t *self, const psd_command_facts_t *facts)
{
    begin_program(self, facts, "psd");
    add_flags(self, facts->options, PSD_PROGRAM_SERVER, of_run, facts->address);
    add(self, "--server-index=%u", facts->index);
    add(self, "--servers=%u", facts->n_servers);
    add(self, "--workers-min=%u", facts->least);
    add(self, "--workers-want=%u", facts->n_workers);
    add_place(self, facts, PSD_OPT_listen, facts->address ? "tcp://0.0.0.0:0" : "tcp://127.0.0.1:0", facts->data);
    if (facts->address)
        add(self, "--advertise=%s", facts->address);
    add_place(self, facts, PSD_OPT_status_listen, "127.0.0.1:0", facts->status);
    if (facts->index)
        add(self, "--join=%s", facts->join);
    add_security(self, facts, PSD_PROGRAM_SERVER);
    end(self, facts->options, facts->run_dir, facts->address);
}

/* Its environment has the address to join, its worker id, and the other options of the job that psd-worker gets. */
static void command_of_user(psd_command_t *self, const psd_command_facts_t *facts)
{
    char id[16];
    *self = (psd_command_t){ .n = 0 };
    if (facts->bin)
        begin(self);
    else
        add(self, PSD_COMMAND_OF_USER);
    for (psd_option_id_t i = 0; i < PSD_N_OPTIONS; i++)
        if ((psd_option_at(i)->programs & PSD_PROGRAM_WORKER) && !is_one_of(i, of_run) &&
            strcmp(psd_options_origin(facts->options, i), "default") != 0)
            add_variable(self, i, psd_options_text(facts->options, i));
    snprintf(id, sizeof id, "%u", facts->index);
    add_variable(self, PSD_OPT_worker_id, id);
    add_variable(self, PSD_OPT_join, facts->join);
    add_variable(self, PSD_OPT_insecure, *facts->server_public ? "false" : "true");
    add_variable(self, PSD_OPT_server_public, facts->server_public);
    add_variable(self, PSD_OPT_run_dir, facts->run_dir);
    for (char *const *word = facts->program; *word; word++)
        add(self, "%s", *word);
}

void psd_command_worker(psd_command_t *self, const psd_command_facts_t *facts)
{
    if (facts->program) {
        command_of_user(self, facts);
        return;
    }
    begin_program(self, facts, "psd-worker");
    add_flags(self, facts->options, PSD_PROGRAM_WORKER, of_run, facts->address);
    add(self, "--worker-id=%u", facts->index);
    add(self, "--join=%s", facts->join);
    add(self, "--progress=log");
    add_security(self, facts, PSD_PROGRAM_WORKER);
    if (facts->short_progress)
        add_short_interval(self, facts->options);
    end(self, facts->options, facts->run_dir, facts->address);
}

void psd_command_shell(psd_command_t *self, const char *shell, const char *host, const char *bin)
{
    *self = (psd_command_t){ .n = 0 };
    begin(self);
    for (shell += strspn(shell, " "); *shell; shell += strspn(shell, " ")) {
        const size_t n = strcspn(shell, " ");
        add(self, "%.*s", (int)n, shell);
        shell += n;
    }
    add(self, "%s", host);
    add(self, "'%s/psdctl' " PSD_CTL_AGENT, bin); /* a shell there splits it into words */
}

/* Isolate each run: its addresses are set here, it continues from no other run's checkpoint, writes to no shared file, and does not
 * end before the others. All workers take part in all rounds: a lost one is not restarted, because rounds without it would give
 * other results. Logs are in the format that psdctl reads. */
void psd_command_run(psd_command_t *self, const psd_command_run_t *run)
{
    enum { OF_RANGE_TEST = 5 /* the first ones */ };
    static const psd_option_id_t decided[] = { PSD_OPT_schedule,      PSD_OPT_schedule_unit,
                                               PSD_OPT_metrics_every, PSD_OPT_eval_every,
                                               PSD_OPT_stop_patience, PSD_OPT_listen,
                                               PSD_OPT_status_listen, PSD_OPT_run_dir,
                                               PSD_OPT_optimizer,     PSD_OPT_seed,
                                               PSD_OPT_progress,      PSD_OPT_save,
                                               PSD_OPT_trace,         PSD_OPT_stop_target,
                                               PSD_OPT_restarts,      PSD_OPT_checkpoint_dir,
                                               PSD_OPT_log_level,     PSD_OPT_log_format,
                                               PSD_OPT_workers_min,   PSD_OPT_workers_want,
                                               PSD_OPT_round_timeout, PSD_OPT_data_validation,
                                               PSD_OPT_stop_steps,    PSD_OPT_stop_epochs,
                                               PSD_N_OPTIONS };
    const psd_options_t *o = run->options;
    const bool has_status = strcmp(psd_options_string(o, PSD_OPT_status_listen), "none") != 0,
               is_silent = strcmp(psd_options_string(o, PSD_OPT_progress), "none") == 0;
    *self = (psd_command_t){ .n = 0 };
    begin(self);
    add(self, "%s", run->psdctl);
    add(self, "run");
    add_flags(self, o, PSD_PROGRAM_CTL, run->schedule ? decided : decided + OF_RANGE_TEST, false);
    add(self, "--listen=tcp://127.0.0.1:0");
    add(self, "--status-listen=%s", has_status ? "127.0.0.1:0" : "none");
    add(self, "--optimizer=%s", run->rule);
    add(self, "--seed=%" PRIu64, run->seed);
    add(self, "--save=");
    add(self, "--trace=");
    add(self, "--checkpoint-dir=");
    add(self, "--stop-target=0");
    add(self, "--data-validation=%.9g", run->validation);
    add(self, "--stop-steps=%.0f", ceil((double)psd_options_uint(o, PSD_OPT_stop_steps) * run->share));
    add(self, "--stop-epochs=%.17g", psd_options_double(o, PSD_OPT_stop_epochs) * run->share);
    add(self, "--workers-min=%u", run->n_workers);
    add(self, "--workers-want=%u", run->n_workers);
    add(self, "--round-timeout=0s");
    add(self, "--restarts=0");
    add(self, "--log-level=info");
    add(self, "--log-format=logfmt");
    add(self, "--progress=%s", is_silent ? "none" : "log");
    if (run->short_progress)
        add_short_interval(self, o);
    if (run->schedule) {
        add(self, "--schedule=%s", run->schedule);
        add(self, "--schedule-unit=%s", run->schedule_unit);
        add(self, "--metrics-every=1");
        add(self, "--eval-every=0");
        add(self, "--stop-patience=0");
    }
    end(self, o, run->run_dir, false);
}
