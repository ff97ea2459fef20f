/* fuzz_allow.c - any bytes as an allow-list: either users with distinct names and keys, or a refusal with line and cause. An
 * accepted list, written out again, reads back the same. */
#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

#include "common/net/allow.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

static char *write_down(const psd_allow_t *list, size_t *n)
{
    char *text = NULL, key[PSD_KEY_TEXT];
    FILE *out = open_memstream(&text, n);
    for (size_t i = 0; i < list->n; i++) {
        const psd_user_t *u = &list->user[i];
        assert(zmq_z85_encode(key, u->key, PSD_KEY_BYTES));
        fprintf(out, "%s %s %s ", u->name, psd_role_name(u->role), key);
        const bool all = u->shards.n == PSD_MAX_SERVERS;
        if (all)
            fputc('*', out);
        for (unsigned s = 0, n_shards = 0; !all && s < PSD_MAX_SERVERS; s++)
            if (psd_server_set_has(&u->shards, s))
                fprintf(out, "%s%u", n_shards++ ? "," : "", s);
        if (u->max_bytes != UINT64_MAX)
            fprintf(out, " %llu", (unsigned long long)u->max_bytes);
        fputc('\n', out);
    }
    fclose(out);
    return text;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    psd_err_t err = { 0 };
    psd_allow_t list, again;
    int rc = psd_allow_parse(&list, "allow", (const char *)data, n_bytes, &err);
    assert(rc == PSD_OK || rc == PSD_ECONFIG);
    assert(rc == PSD_OK || (!list.user && strncmp(err.text, "allow:", 6) == 0));
    if (rc != PSD_OK)
        return 0;
    for (size_t i = 0; i < list.n; i++) {
        assert(*list.user[i].name && list.user[i].shards.n && list.user[i].max_bytes);
        assert(psd_allow_by_name(&list, list.user[i].name) == &list.user[i]);
        assert(psd_allow_by_key(&list, list.user[i].key) == &list.user[i]);
    }
    size_t n;
    char *text = write_down(&list, &n);
    assert(psd_allow_parse(&again, "again", text, n, &err) == PSD_OK);
    assert(again.n == list.n && !memcmp(again.user, list.user, list.n * sizeof *list.user));
    psd_allow_clear(&again);
    psd_allow_clear(&list);
    free(text);
    return 0;
}
