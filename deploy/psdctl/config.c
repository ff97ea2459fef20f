#include "deploy/psdctl/config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/options.h"

static int print_markdown(void)
{
    char *table = psd_options_markdown();
    if (!table)
        return psd_err_exit_code(PSD_ENOMEM);
    fputs(table, stdout);
    free(table);
    return 0;
}

static void print_values(const psd_options_t *options)
{
    const psd_option_t *row;
    for (size_t i = 0; (row = psd_options_row(i)); i++) {
        char line[1200];
        snprintf(line, sizeof line, "%s = %s", row->key, psd_options_text(options, row->key));
        printf("%-44s # %s\n", line, psd_options_origin(options, row->key));
    }
}

int psd_ctl_config(int argc, char **argv)
{
    psd_err_t err = { 0 };
    if (argc == 2 && strcmp(argv[1], "--markdown") == 0)
        return print_markdown();
    psd_options_t *options = psd_options_new(PSD_PROGRAM_CTL);
    if (!options)
        return psd_err_exit_code(PSD_ENOMEM);
    int rc = psd_options_load(options, argc, argv, &err);
    if (rc == PSD_OK)
        print_values(options);
    else if (rc < 0)
        fprintf(stderr, "%s\n",
                *psd_options_complaints(options) ? psd_options_complaints(options) : err.text);
    psd_options_destroy(&options);
    return rc < 0 ? psd_err_exit_code(rc) : 0;
}
