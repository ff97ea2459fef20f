/* doctor.c - `psdctl doctor`: what may keep a job from running here, in a report that one can paste. Each check is a row. */
#include "deploy/psdctl/doctor.h"

#include <jansson.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>

#include "deploy/psdctl/say.h"
#include "deploy/psdctl/verb.h"

static psd_check_fn *const checks[] = {
    psd_check_program, psd_check_processor, psd_check_libraries, psd_check_memory, psd_check_limits, psd_check_clock,
    psd_check_loopback, psd_check_keys, psd_check_outputs, psd_check_disk, psd_check_ports, psd_check_join, psd_check_data,
};

static const char *const words[] = { [PSD_VERDICT_OK] = "ok", [PSD_VERDICT_WARN] = "warn", [PSD_VERDICT_BAD] = "bad" };

struct psd_findings {
    json_t *list;  /* for --json; NULL: they are printed as they come */
    size_t n[3];   /* by verdict */
};

void psd_finding(psd_findings_t *self, psd_verdict_t verdict, const char *subject, const char *cure, const char *format, ...)
{
    char text[1024];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    self->n[verdict]++;
    if (self->list) {
        json_array_append_new(self->list, json_pack("{s:s, s:s, s:s, s:s}", "subject", subject, "verdict", words[verdict],
                                                    "found", text, "cure", cure));
        return;
    }
    printf("%-5s %-14s ", words[verdict], subject);
    psd_say_text(stdout, text, SIZE_MAX);
    if (*cure) {
        printf("\n%21s", "");
        psd_say_text(stdout, cure, SIZE_MAX);
    }
    putchar('\n');
    fflush(stdout);
}

/* Load what the words say. Without any, the defaults: the machine is looked at all the same. */
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
        psd_finding(findings, PSD_VERDICT_BAD, "job", "mend it (psdctl config check shows all); the defaults are looked at instead",
                    "%s", err.text);
    else if (rc == PSD_OK && *psd_options_file(options))
        psd_finding(findings, PSD_VERDICT_OK, "job", "", "%s: options are right", psd_options_file(options));
    if (rc < 0 && options && *code < 0) {
        psd_options_destroy(&options);
        options = psd_options_new(PSD_PROGRAM_CTL);
    }
    return options;
}

static void conclude(const psd_findings_t *self)
{
    const char *verdict = words[self->n[PSD_VERDICT_BAD]    ? PSD_VERDICT_BAD
                                : self->n[PSD_VERDICT_WARN] ? PSD_VERDICT_WARN
                                                            : PSD_VERDICT_OK];
    if (!self->list) {
        printf("%zu ok, %zu warn, %zu bad\n", self->n[PSD_VERDICT_OK], self->n[PSD_VERDICT_WARN], self->n[PSD_VERDICT_BAD]);
        return;
    }
    json_t *root = json_pack("{s:s, s:s, s:s, s:O}", "schema", "psd.doctor/1", "version", PSD_VERSION, "verdict", verdict, "findings",
                             self->list);
    json_dumpf(root, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(root);
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
    psd_findings_t findings = { .list = args->flag[0] ? json_array() : NULL };
    if (!findings.list)
        print_head();
    psd_options_t *options = load(args, &findings, &code);
    if (options && code < 0) {
        const bool has_job = args->argc > 1 && !findings.n[PSD_VERDICT_BAD];
        for (size_t i = 0; i < sizeof checks / sizeof *checks; i++)
            checks[i](&findings, options, has_job);
        conclude(&findings);
        code = findings.n[PSD_VERDICT_BAD] != 0;
    }
    json_decref(findings.list);
    psd_options_destroy(&options);
    return code;
}

const psd_verb_t psd_verb_doctor = {
    .name = "doctor",
    .words = "[JOB]",
    .does = "what may keep a job from running here, as a report to paste",
    .about = "Looks at this program and its libraries, processor, memory, limits and clock; sends messages through the loopback; "
             "and, with a job file or options, at keys, directories, ports, addresses and data. A line each: ok, warn or bad, "
             "with the cause and what to do. It shows no secret, and leaves nothing behind.",
    .flag = { { "json", NULL, "as one object, \"schema\": \"psd.doctor/1\"" } },
    .options = PSD_PROGRAM_CTL | PSD_PROGRAM_SERVER | PSD_PROGRAM_WORKER,
    .examples = "psdctl doctor\npsdctl doctor job.yaml --json\n"
                "psdctl doctor job.yaml --join=tcp://ps0:7470 --worker-key=gpu1.key --server-public=ps.pub\n",
    .exits = "1 when something is bad",
    .run = run,
};
