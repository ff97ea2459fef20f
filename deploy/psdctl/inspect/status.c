/* status.c - `psdctl status`: the state of a server, in a few lines. */
#include "deploy/psdctl/verb.h"

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/system/json.h"
#include "deploy/psdctl/inspect/http.h"
#include "deploy/psdctl/inspect/snapshot.h"
#include "deploy/psdctl/say.h"

/* "-" for a number that a worker does not have, as before it is a member. */
static const char *cell(const json_t *row, const char *key, int digits, char out[32])
{
    const double x = psd_http_number_at(row, "", key);
    snprintf(out, 32, "%.*g", digits, x);
    return isnan(x) ? "-" : out;
}

static void print_workers(const json_t *workers)
{
    enum { WHOLE = 15 }; /* digits of a count */
    size_t i;
    json_t *row;
    char step[32], lag[32], loss[32];
    if (json_array_size(workers))
        printf("  %-7s %-24s %-8s %8s %6s %8s\n", "worker", "name", "state", "step", "lag", "loss");
    json_array_foreach(workers, i, row)
    {
        printf("  %-7.0f %-24.24s %-8s %8s %6s %8s\n", psd_http_number_at(row, "", "id"), psd_http_text_at(row, "name"),
               psd_http_text_at(row, "state"), cell(row, "step", WHOLE, step), cell(row, "lag_steps", WHOLE, lag),
               cell(row, "loss", 4, loss));
    }
}

static void print_human(const json_t *status)
{
    size_t i;
    json_t *alert, *group;
    const json_t *optimizer = json_object_get(status, "optimizer"), *sync = json_object_get(status, "sync");
    const char *reason = psd_http_text_at(status, "reason"), *rule = psd_http_text_at(optimizer, "rule");
    printf("%s: %s%s%s, shard %.0f of %.0f, up %.0f s\n", psd_http_text_at(status, "job"), psd_http_text_at(status, "state"),
           *reason ? ", " : "", reason, psd_http_number_at(status, "shard", "index"), psd_http_number_at(status, "shard", "count"),
           psd_http_number_at(status, "", "uptime_seconds"));
    const json_t *progress = json_object_get(status, "progress");
    printf("  step %.0f, samples %.0f", psd_http_number_at(status, "progress", "step"),
           psd_http_number_at(status, "progress", "samples"));
    if (json_is_number(json_object_get(progress, "epoch")))
        printf(", epoch %.2f", psd_http_number_at(progress, "", "epoch"));
    if (json_is_number(json_object_get(progress, "left_seconds")))
        printf(", %.0f s left", psd_http_number_at(progress, "", "left_seconds"));
    if (psd_http_number_at(status, "progress", "step") > 0)
        printf(", training loss %.5g", psd_http_number_at(status, "loss", "train"));
    printf("\n  %s, %s, learning rate %.4g\n", *rule ? rule : psd_http_text_at(optimizer, "name"), psd_http_text_at(sync, "mode"),
           psd_http_number_at(optimizer, "", "lr_now"));
    json_array_foreach(json_object_get(optimizer, "groups"), i, group)
    {
        printf("    %s: %s, learning rate %.4g\n", psd_http_text_at(group, "match"),
               json_is_true(json_object_get(group, "frozen")) ? "frozen" : psd_http_text_at(group, "rule"),
               psd_http_number_at(group, "", "lr_now"));
    }
    print_workers(json_object_get(status, "workers"));
    json_array_foreach(json_object_get(status, "alerts"), i, alert)
    {
        printf("  ");
        psd_say_text(stdout, json_string_value(alert), SIZE_MAX);
        printf("\n");
    }
}

static int state_code(const json_t *status)
{
    const char *state = psd_http_text_at(status, "state");
    if (strcmp(state, "failed") == 0)
        return psd_err_exit_code(PSD_EDIVERGED);
    return strcmp(state, "training") == 0 || strcmp(state, "finished") == 0 ? 0 : psd_err_exit_code(PSD_EAGAIN);
}

enum { HUMAN, JSON, HTML };

static int show(const char *url, const char *token_file, int style)
{
    psd_err_t err = { 0 };
    json_t *status = NULL;
    if (style == HTML)
        psd_snapshot_print(stdout, url, token_file, &status, &err);
    else
        status = psd_http_status(url, token_file, &err);
    int code = status ? state_code(status) : psd_err_exit_code(err.code);
    char *text = status && style == JSON ? psd_json_text(status, JSON_INDENT(2) | JSON_REAL_PRECISION(13)) : NULL;
    if (!status)
        fprintf(stderr, "psdctl status: %s\n", err.text);
    else if (text)
        printf("%s\n", text);
    else if (style != HTML)
        print_human(status);
    json_decref(status);
    free(text);
    return code;
}

enum { AS_JSON, AS_HTML, STATUS, TOKEN };

static int run(const psd_args_t *args)
{
    const char *url = args->flag[STATUS];
    if (url && args->word[0])
        return psd_verb_misuse(args->verb, "two addresses, %s and %s; give one", url, args->word[0]);
    if (args->flag[AS_JSON] && args->flag[AS_HTML])
        return psd_verb_misuse(args->verb, "--json and --html are given; give only one");
    return show(url             ? url
                : args->word[0] ? args->word[0]
                                : PSD_CTL_URL,
                args->flag[TOKEN],
                args->flag[AS_JSON]   ? JSON
                : args->flag[AS_HTML] ? HTML
                                      : HUMAN);
}

const psd_verb_t psd_verb_status = {
    .name = "status",
    .words = "[URL]",
    .does = "show the state of a server",
    .about = "URL is the status endpoint that a server prints when it is ready; default " PSD_CTL_URL ".",
    .flag = { [AS_JSON] = { .key = "json", .type = PSD_OPTION_SWITCH, .help = "print the server's whole document" },
              [AS_HTML] = { .key = "html",
                            .type = PSD_OPTION_SWITCH,
                            .help = "print the dashboard as one file, to be read without the server" },
              [STATUS] = { .key = "status", .type = PSD_OPTION_STRING, .argument = "URL", .help = "the same as URL" },
              [TOKEN] = { .key = "token-file",
                          .type = PSD_OPTION_PATH,
                          .argument = "FILE",
                          .help = "file with the token that the server requires (its status.token)" } },
    .examples = "psdctl status\npsdctl status --html > report.html\npsdctl status http://ps0:7471 --token-file=token\n",
    .exits = "0 while the job trains or when it is finished; 75 while it waits; 1 when it failed; 69 when no server answers",
    .run = run,
};
