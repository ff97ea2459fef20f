#include "deploy/psdctl/run/command.h"

#include <assert.h>
#include <inttypes.h>
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

/* Options that are decided per child; all others are handed on as they were given. */
static const psd_option_id_t of_run[] = { PSD_OPT_listen,  PSD_OPT_advertise, PSD_OPT_join,          PSD_OPT_status_listen,
                                          PSD_OPT_run_dir, PSD_OPT_progress,  PSD_OPT_workers_min,   PSD_OPT_workers_want,
                                          PSD_OPT_servers, PSD_OPT_insecure,  PSD_OPT_server_public, PSD_N_OPTIONS };

static bool is_one_of(psd_option_id_t id, const psd_option_id_t *all)
{
    while (*all != PSD_N_OPTIONS && *all != id)
        all++;
    return *all != PSD_N_OPTIONS;
}

/* What the flags of this command line say to a child of `program`, but for the options `decided`; file and
 * environment it reads itself, unless it is far away, or the file can be read only once. */
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

/* Everything that psdctl run starts is on this machine, where one need not have keys. */
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

/* What was told, for server 0, who is the one to be found; others take any port. One that has had a port
 * before comes back to it, where those who know it will look. */
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

void psd_command_worker(psd_command_t *self, const psd_command_facts_t *facts)
{
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
    add(self, "'%s/psdctl' " PSD_CTL_AGENT, bin); /* a shell there takes it to pieces */
}

/* Each run by itself: no addresses of its own choice, no checkpoint of another run to go on from, no file that
 * all would write to, no end before the others'. All workers are in all rounds: who is lost is not started
 * again, for the rounds without him would be other rounds. And its logs are read. */
void psd_command_run(psd_command_t *self, const psd_command_run_t *run)
{
    static const psd_option_id_t decided[] = { PSD_OPT_listen,
                                               PSD_OPT_status_listen,
                                               PSD_OPT_run_dir,
                                               PSD_OPT_optimizer,
                                               PSD_OPT_seed,
                                               PSD_OPT_progress,
                                               PSD_OPT_save,
                                               PSD_OPT_trace,
                                               PSD_OPT_stop_target,
                                               PSD_OPT_restarts,
                                               PSD_OPT_checkpoint_dir,
                                               PSD_OPT_log_level,
                                               PSD_OPT_log_format,
                                               PSD_OPT_workers_min,
                                               PSD_OPT_workers_want,
                                               PSD_OPT_round_timeout,
                                               PSD_OPT_data_validation,
                                               PSD_N_OPTIONS };
    const psd_options_t *o = run->options;
    const bool has_status = strcmp(psd_options_string(o, PSD_OPT_status_listen), "none") != 0,
               is_silent = strcmp(psd_options_string(o, PSD_OPT_progress), "none") == 0;
    *self = (psd_command_t){ .n = 0 };
    begin(self);
    add(self, "%s", run->psdctl);
    add(self, "run");
    add_flags(self, o, PSD_PROGRAM_CTL, decided, false);
    add(self, "--listen=tcp://127.0.0.1:0");
    add(self, "--status-listen=%s", has_status ? "127.0.0.1:0" : "none");
    add(self, "--optimizer=%s", run->rule);
    add(self, "--seed=%" PRIu64, run->seed);
    add(self, "--save=");
    add(self, "--trace=");
    add(self, "--checkpoint-dir=");
    add(self, "--stop-target=0");
    add(self, "--data-validation=%.9g", run->validation);
    add(self, "--workers-min=%u", run->n_workers);
    add(self, "--workers-want=%u", run->n_workers);
    add(self, "--round-timeout=0s");
    add(self, "--restarts=0");
    add(self, "--log-level=info");
    add(self, "--log-format=logfmt");
    add(self, "--progress=%s", is_silent ? "none" : "log");
    if (run->short_progress)
        add_short_interval(self, o);
    end(self, o, run->run_dir, false);
}
