#include "server/core/admission.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/base/logtext.h"

/* Whether every place of a fixed number is taken, or was until its work was done. */
static bool is_full(const psd_admission_look_t *look, const psd_membership_t *members)
{
    uint32_t taken = 0;
    for (uint32_t i = 0; i < members->n_rows; i++)
        taken += psd_worker_is_here(&members->row[i]) || members->row[i].finished;
    return look->places && taken >= look->places;
}

/* The row with the id that a hello asks for; NULL when it asks for none. */
static psd_worker_row_t *wanted_row(psd_membership_t *members, const psd_worker_hello_t *hello)
{
    return hello->wanted && hello->wanted <= PSD_MAX_WORKERS ? &members->row[hello->wanted - 1] : NULL;
}

/* A row for a new worker; NULL, with the reason in `why`, if it must wait for one. */
static psd_worker_row_t *find_place(const psd_admission_look_t *look, psd_membership_t *members, uint64_t now_ms,
                                    const psd_worker_hello_t *hello, char *why, size_t n)
{
    if (!psd_servers_all_joined(look->servers)) {
        char missing[256] = "";
        psd_servers_list_missing(look->servers, missing, sizeof missing);
        snprintf(why, n, "waiting for servers: missing %s of %u", missing, look->servers->n);
        return NULL;
    }
    if (is_full(look, members)) {
        snprintf(why, n, "all %u places are taken; a worker that is lost frees its own", look->places);
        return NULL;
    }
    psd_worker_row_t *row = psd_membership_admit(members, hello->wanted, psd_peer_user(hello->from));
    if (row)
        return row;
    const psd_worker_row_t *held = wanted_row(members, hello);
    if (held)
        snprintf(why, n, "worker %u is %s, last heard %" PRIu64 " ms ago; you are %.120s; give each a worker.id of its own",
                 hello->wanted - 1, held->name, now_ms - held->heard_ms, hello->name);
    else
        snprintf(why, n, "all %u worker ids are in use", PSD_MAX_WORKERS);
    return NULL;
}

static void refuse(psd_admission_t *out, psd_refusal_t refusal, const char *format, ...) __attribute__((format(printf, 3, 4)));

static void refuse(psd_admission_t *out, psd_refusal_t refusal, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(out->why, sizeof out->why, format, args);
    va_end(args);
    out->verdict = PSD_ADMISSION_REFUSED;
    out->refusal = refusal;
}

void psd_admission_judge(psd_admission_t *out, const psd_admission_look_t *look, psd_membership_t *members, uint64_t now_ms,
                         const psd_worker_hello_t *hello)
{
    psd_worker_row_t *row = psd_membership_by_nonce(members, hello->nonce);
    const psd_worker_row_t *asked = row ? row : wanted_row(members, hello);
    *out = (psd_admission_t){ .verdict = PSD_ADMISSION_WAITS };
    if (!psd_logtext_is_plain(hello->name, strlen(hello->name))) {
        refuse(out, PSD_REFUSAL_CONFIG,
               "\"%.80s\" cannot be a worker's name: it is one word of at most "
               "%d bytes, without quotes, = or backslash",
               hello->name, PSD_MAX_NAME - 1);
    } else if (asked && psd_worker_is_anothers(asked, psd_peer_user(hello->from))) {
        refuse(out, PSD_REFUSAL_WORKER, "worker id %u belongs to another user", asked->id);
    } else if (!row && look->over) {
        refuse(out, PSD_REFUSAL_JOB, "job %s %s", look->job, look->over);
    } else if (row) {
        out->row = row;
        out->verdict = psd_worker_is_here(row) ? PSD_ADMISSION_KNOWN : PSD_ADMISSION_FENCED;
        if (out->verdict == PSD_ADMISSION_KNOWN)
            psd_worker_hears_from(row, hello->from, now_ms);
    } else if ((row = find_place(look, members, now_ms, hello, out->why, sizeof out->why))) {
        out->row = row;
        out->verdict = PSD_ADMISSION_NEW;
        psd_worker_begin_life(row, hello->from, hello->nonce, hello->name, now_ms);
    }
}
