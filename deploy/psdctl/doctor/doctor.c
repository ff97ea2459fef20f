/* doctor.c - `psdctl doctor`: reports problems that could stop a job on this machine. Each check is a row. */
#include "deploy/psdctl/doctor/doctor.h"

#include <stdio.h>
#include <sys/utsname.h>
#include <time.h>

#include "deploy/psdctl/verb.h"

static psd_check_fn *const checks[] = {
    psd_check_program, psd_check_processor, psd_check_libraries, psd_check_memory,  psd_check_limits,
    psd_check_clock,   psd_check_loopback,  psd_check_keys,      psd_check_outputs, psd_check_disk,
    psd_check_ports,   psd_check_join,      psd_check_data,      psd_check_codec,
};

/* Load the options; without arguments the defaults, because the machine is checked anyway. */
static psd_options_t *load(const psd_args_t *args, psd_findings_t *findings, int *code)
{
    psd_err_t err = { 0 };
    char none[] = "--", *just[] = { args->argv[0], none, NULL };
    const bool has_words = args->argc > 1;
    psd_options_t *options = psd_options_new(PSD_PROGRAM_CTL | PSD_PROGRAM_SERVER | PSD_PROGRAM_WORKER);
    int rc = options ? psd_options_load(options, has_words ? args->argc : 2, has_words ? args->argv : just, &err) : PSD_ENOMEM;
    *code = rc == PSD_EUSAGE ? psd_err_exit_code(rc) : rc > 0 ? 0 : -1;
    if (rc == PSD_EUSAGE)
        fprintf(stderr, "psdctl doctor: %s\n", err.text);
    else if (rc < 0)
        psd_finding(findings, PSD_VERDICT_BAD, "job",
                    "fix it (psdctl config check shows every error); the rest of this report is about the defaults", "%s",
                    err.text);
    else if (rc == PSD_OK && *psd_options_file(options))
        psd_finding(findings, PSD_VERDICT_OK, "job", "", "%s: options are right", psd_options_file(options));
    if (rc < 0 && options && *code < 0) {
        psd_options_destroy(&options);
        options = psd_options_new(PSD_PROGRAM_CTL);
    }
    return options;
}

static void print_head(void)
{
    char when[32];
    struct utsname system;
    time_t now = time(NULL);
    struct tm tm;
    strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &tm));
    uname(&system);
    printf("psdctl doctor %s, %s, %s %s %s\n", PSD_VERSION, when, system.sysname, system.release, system.machine);
}

static int run(const psd_args_t *args)
{
    int code;
    psd_findings_t *findings = psd_findings_new(args->flag[0] != NULL);
    if (!findings)
        return psd_err_exit_code(PSD_ENOMEM);
    if (!args->flag[0])
        print_head();
    psd_options_t *options = load(args, findings, &code);
    if (options && code < 0) {
        const bool has_job = args->argc > 1 && psd_findings_worst(findings) != PSD_VERDICT_BAD;
        for (size_t i = 0; i < sizeof checks / sizeof *checks; i++)
            checks[i](findings, options, has_job);
        psd_findings_conclude(findings);
        code = psd_findings_worst(findings) == PSD_VERDICT_BAD;
    }
    psd_findings_destroy(&findings);
    psd_options_destroy(&options);
    return code;
}

const psd_verb_t psd_verb_doctor = {
    .name = "doctor",
    .words = "[JOB]",
    .does = "check this machine for problems that could stop a job, as a report to paste",
    .about = "Looks at this program and its libraries, processor, memory, limits and clock; sends messages through the loopback; "
             "and, with a job file or options, at keys, directories, ports, addresses and data, and at how long a step would take "
             "with each codec: it recommends one, and changes nothing. Each line is ok, warn or bad, with the cause and what to "
             "do. It shows no secrets and leaves nothing behind.",
    .flag = { { .key = "json", .type = PSD_OPTION_SWITCH, .help = "as one object, \"schema\": \"psd.doctor/1\"" } },
    .options = PSD_PROGRAM_CTL | PSD_PROGRAM_SERVER | PSD_PROGRAM_WORKER,
    .examples = "psdctl doctor\npsdctl doctor job.yaml --json\n"
                "psdctl doctor job.yaml --join=tcp://ps0:7470 --worker-key=gpu1.key --server-public=ps.pub\n",
    .exits = "1 when something is bad",
    .run = run,
};
