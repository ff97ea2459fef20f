/* keygen.c - `psdctl keygen`: a key pair for a server, a worker or a person. */
#include "deploy/psdctl/verb.h"

#include <stdio.h>
#include <string.h>

#include "common/net/allow.h"

static int run(const psd_args_t *args)
{
    const char *role = args->flag[0] ? args->flag[0] : "worker";
    char public[PSD_KEY_TEXT], line[512];
    const char *name = args->word[0], *slash = strrchr(name, '/');
    psd_err_t err = { 0 };
    psd_allow_t list;
    /* Refuse a name that could not be in the allow-list before writing anything. */
    snprintf(line, sizeof line, "%.200s %.60s rq:rM>}U?@Lns47E1%%kR.o@n%%FcmmsL/@{H8]yf7\n", slash ? slash + 1 : name, role);
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

const psd_verb_t psd_verb_keygen = {
    .name = "keygen",
    .words = "NAME",
    .does = "make a key pair for a user",
    .about = "Writes a secret key to NAME.key, which only you can read, and its public key to NAME.pub; prints its line for the "
             "servers' allow-list. It does not overwrite existing files.",
    .flag = { { .key = "role",
                .type = PSD_OPTION_STRING,
                .argument = "ROLE",
                .help = "in that line: worker (the default), reader, monitor, admin or server" } },
    .examples = "psdctl keygen ps --role=server\npsdctl keygen gpu1 >>allow\n",
    .exits = "74 when a file exists already",
    .run = run,
};
