#include "deploy/psdctl/keygen.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "common/allow.h"

static const char usage[] =
    "Usage: psdctl keygen NAME\n"
    "Write a secret key to NAME.key, for you alone to read, and its public key to NAME.pub; print\n"
    "the line that lets it in, for the servers' allow-list. What is there is not overwritten.\n"
    "  --role ROLE   in that line: worker (the default), monitor, admin or server\n";

int psd_ctl_keygen(int argc, char **argv)
{
    static const struct option long_options[] = { { "role", required_argument, NULL, 'r' },
                                                  { "help", no_argument, NULL, 'h' },
                                                  { 0 } };
    const char *role = "worker";
    for (int option; (option = getopt_long(argc, argv, "h", long_options, NULL)) != -1;) {
        if (option == 'h')
            return fputs(usage, stdout), 0;
        if (option == '?')
            return fputs(usage, stderr), psd_err_exit_code(PSD_EUSAGE);
        role = optarg;
    }
    if (argc - optind != 1)
        return fputs(usage, stderr), psd_err_exit_code(PSD_EUSAGE);
    char public[PSD_KEY_TEXT], line[512];
    const char *name = argv[optind], *slash = strrchr(name, '/');
    psd_err_t err = { 0 };
    psd_allow_t list;
    /* What would not be a line of the list is refused before anything is written. */
    snprintf(line, sizeof line, "%.200s %.60s rq:rM>}U?@Lns47E1%%kR.o@n%%FcmmsL/@{H8]yf7\n",
             slash ? slash + 1 : name, role);
    int rc = psd_allow_parse(&list, "psdctl keygen", line, strlen(line), &err);
    psd_allow_clear(&list);
    if (rc == PSD_OK)
        rc = psd_keys_write(name, public, &err);
    if (rc == PSD_OK)
        printf("%s %s %s\n", slash ? slash + 1 : name, role, public);
    else
        fprintf(stderr, "psdctl keygen: %s\n", err.text);
    return psd_err_exit_code(rc);
}
