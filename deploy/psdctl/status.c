#include "deploy/psdctl/status.h"

#include <getopt.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "deploy/psdctl/http.h"
#include "deploy/psdctl/moment.h"
#include "deploy/psdctl/say.h"

static const char usage[] = "Usage: psdctl status [--json | --html] [--token-file FILE] [URL]\n"
                            "Print what the server at URL (default " PSD_CTL_URL ") is doing.\n"
                            "  --json        the whole document, as the server gave it\n"
                            "  --html        the dashboard as one file, to be read without the server\n"
                            "  --status URL  the same as URL\n"
                            "  --token-file FILE  the token that the server asks for (its status.token)\n";

static void print_workers(const json_t *workers)
{
    size_t i;
    json_t *row;
    if (json_array_size(workers))
        printf("  %-7s %-24s %-8s %8s %6s %8s\n", "worker", "name", "state", "step", "lag", "loss");
    json_array_foreach(workers, i, row)
    {
        printf("  %-7.0f %-24.24s %-8s %8.0f %6.0f %8.4g\n", psd_http_number_at(row, "", "id"),
               psd_http_text_at(row, "name"), psd_http_text_at(row, "state"),
               psd_http_number_at(row, "", "step"), psd_http_number_at(row, "", "lag_steps"),
               psd_http_number_at(row, "", "loss"));
    }
}

static void print_human(const json_t *status)
{
    size_t i;
    json_t *alert;
    const json_t *optimizer = json_object_get(status, "optimizer"), *sync = json_object_get(status, "sync");
    const char *reason = psd_http_text_at(status, "reason"), *rule = psd_http_text_at(optimizer, "rule");
    printf("%s: %s%s%s, shard %.0f of %.0f, up %.0f s\n", psd_http_text_at(status, "job"),
           psd_http_text_at(status, "state"), *reason ? ", " : "", reason,
           psd_http_number_at(status, "shard", "index"), psd_http_number_at(status, "shard", "count"),
           psd_http_number_at(status, "", "uptime_seconds"));
    printf("  step %.0f, samples %.0f", psd_http_number_at(status, "progress", "step"),
           psd_http_number_at(status, "progress", "samples"));
    if (json_is_number(json_object_get(json_object_get(status, "loss"), "train")))
        printf(", training loss %.5g", psd_http_number_at(status, "loss", "train"));
    printf("\n  %s, %s, learning rate %.4g\n", *rule ? rule : psd_http_text_at(optimizer, "name"),
           psd_http_text_at(sync, "mode"), psd_http_number_at(optimizer, "", "lr_now"));
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
    return strcmp(state, "training") == 0 || strcmp(state, "finished") == 0 ? 0
                                                                            : psd_err_exit_code(PSD_EAGAIN);
}

enum { HUMAN, JSON, HTML };

static int show(const char *url, const char *token_file, int style)
{
    psd_err_t err = { 0 };
    json_t *status = NULL;
    if (style == HTML)
        psd_moment_print(stdout, url, token_file, &status, &err);
    else
        status = psd_http_status(url, token_file, &err);
    int code = status ? state_code(status) : psd_err_exit_code(err.code);
    char *text = status && style == JSON ? json_dumps(status, JSON_INDENT(2) | JSON_REAL_PRECISION(13)) : NULL;
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

int psd_ctl_status(int argc, char **argv)
{
    static const struct option long_options[] = { { "json", no_argument, NULL, 'j' },
                                                  { "html", no_argument, NULL, 'w' },
                                                  { "status", required_argument, NULL, 's' },
                                                  { "token-file", required_argument, NULL, 't' },
                                                  { "help", no_argument, NULL, 'h' },
                                                  { 0 } };
    const char *url = NULL, *token_file = NULL;
    int style = HUMAN;
    for (int option; (option = getopt_long(argc, argv, "h", long_options, NULL)) != -1;) {
        if (option == 'h') {
            fputs(usage, stdout);
            return 0;
        }
        if (option == '?') {
            fputs(usage, stderr);
            return psd_err_exit_code(PSD_EUSAGE);
        }
        style = option == 'j' ? JSON : option == 'w' ? HTML : style;
        url = option == 's' ? optarg : url;
        token_file = option == 't' ? optarg : token_file;
    }
    if (argc - optind > (url ? 0 : 1)) {
        fputs(usage, stderr);
        return psd_err_exit_code(PSD_EUSAGE);
    }
    return show(url ? url : optind < argc ? argv[optind] : PSD_CTL_URL, token_file, style);
}
