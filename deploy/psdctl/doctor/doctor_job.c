/* doctor_job.c - checks the keys, directories, addresses and data in the job's options. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "common/net/address.h"
#include "common/net/allow.h"
#include "common/net/keys.h"
#include "common/system/outputs.h"
#include "deploy/psdctl/doctor/doctor.h"
#include "deploy/psdctl/inspect/http.h"
#include "worker/setup.h"

enum { WAIT_MS = 5000 };

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* -- keys -------------------------------------------------------------------------------------------------- */

/* The file's mode, for messages. */
static unsigned mode_of(const char *path)
{
    struct stat facts;
    return stat(path, &facts) == 0 ? facts.st_mode & 07777 : 0;
}

/* Check a key pair, and the servers' public key. */
static void look_at_key(psd_findings_t *findings, const psd_options_t *o, psd_option_id_t id)
{
    psd_err_t err = { 0 };
    psd_keys_t keys;
    const char *path = psd_options_string(o, id), *key = psd_option_at(id)->key;
    const bool is_server = id == PSD_OPT_server_key;
    if (!*path)
        return;
    if (psd_keys_load(&keys,
                      &(psd_keys_source_t){ .secret = path,
                                            .is_server = is_server,
                                            .server = is_server ? NULL : psd_options_string(o, PSD_OPT_server_public) },
                      &err))
        psd_finding(findings, PSD_VERDICT_BAD, key, "psdctl keygen makes keys; chmod 600 protects them", "%s", err.text);
    else
        psd_finding(findings, PSD_VERDICT_OK, key, "", "%s, mode %04o", path, mode_of(path));
    psd_keys_wipe(&keys);
}

static void look_at_allow(psd_findings_t *findings, const psd_options_t *o)
{
    psd_err_t err = { 0 };
    psd_allow_t list;
    unsigned n[8] = { 0 };
    const char *path = psd_options_string(o, PSD_OPT_allow);
    if (!*path)
        return;
    if (psd_allow_load(&list, path, &err) != PSD_OK) {
        psd_finding(findings, PSD_VERDICT_BAD, "allow", "psdctl keygen prints lines for it", "%s", err.text);
        return;
    }
    for (size_t i = 0; i < list.n; i++)
        n[list.user[i].role]++;
    psd_finding(findings, n[PSD_ROLE_SERVER] && n[PSD_ROLE_WORKER] ? PSD_VERDICT_OK : PSD_VERDICT_WARN, "allow",
                n[PSD_ROLE_SERVER] && n[PSD_ROLE_WORKER]
                    ? ""
                    : "add the lines that psdctl keygen prints; servers need one as well as workers",
                "%s, mode %04o: %u of role server, %u worker, %u reader, %u monitor, %u admin", path, mode_of(path),
                n[PSD_ROLE_SERVER], n[PSD_ROLE_WORKER], n[PSD_ROLE_READER], n[PSD_ROLE_MONITOR], n[PSD_ROLE_ADMIN]);
    psd_allow_clear(&list);
}

void psd_check_keys(psd_findings_t *findings, const psd_options_t *o, bool has_job)
{
    char token[PSD_TOKEN_TEXT];
    psd_err_t err = { 0 };
    const char *path = psd_options_string(o, PSD_OPT_status_token);
    const bool has_keys = *psd_options_string(o, PSD_OPT_server_key) || *psd_options_string(o, PSD_OPT_worker_key);
    look_at_key(findings, o, PSD_OPT_server_key);
    look_at_key(findings, o, PSD_OPT_worker_key);
    look_at_allow(findings, o);
    if (*path && psd_token_load(token, path, &err) != PSD_OK)
        psd_finding(findings, PSD_VERDICT_BAD, "status.token", "write a line of 16 characters or more, and chmod 600 the file",
                    "%s", err.text);
    else if (*path)
        psd_finding(findings, PSD_VERDICT_OK, "status.token", "", "%s, mode %04o", path, mode_of(path));
    explicit_bzero(token, sizeof token);
    if (has_job && !has_keys)
        psd_finding(findings, PSD_VERDICT_OK, "keys", "", "none: all traffic is unencrypted, and stays on this machine");
}

/* -- disk -------------------------------------------------------------------------------------------------- */

enum { WRITE_MIB = 64, FLUSHES = 20 };

/* The nearest existing directory at or above `path`. */
static void find_existing(const char *path, char out[PATH_MAX])
{
    struct stat facts;
    snprintf(out, PATH_MAX, "%s", path);
    while (stat(out, &facts) != 0 && strcmp(out, "/") != 0 && strcmp(out, ".") != 0) {
        char copy[PATH_MAX];
        memcpy(copy, out, sizeof copy);
        snprintf(out, PATH_MAX, "%s", dirname(copy));
    }
}

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Seconds for a write of WRITE_MIB with its flush, and the median for small ones. */
static bool time_disk(int fd, double *large_s, double *small_s)
{
    static char block[1 << 20];
    double each[FLUSHES];
    bool good = true;
    memset(block, 0x5a, sizeof block);
    double begun = now_s();
    for (int i = 0; good && i < WRITE_MIB; i++)
        good = write(fd, block, sizeof block) == (ssize_t)sizeof block;
    good = good && fdatasync(fd) == 0;
    *large_s = now_s() - begun;
    for (int i = 0; good && i < FLUSHES; i++) {
        begun = now_s();
        good = pwrite(fd, block, 4096, 4096 * i) == 4096 && fdatasync(fd) == 0;
        each[i] = now_s() - begun;
    }
    qsort(each, FLUSHES, sizeof *each, compare);
    *small_s = good ? each[FLUSHES / 2] : 0;
    return good;
}

void psd_check_disk(psd_findings_t *findings, const psd_options_t *o, bool has_job)
{
    char place[PATH_MAX], path[PATH_MAX + 32];
    const char *told = psd_options_string(o, PSD_OPT_checkpoint_dir), *run = psd_options_string(o, PSD_OPT_run_dir);
    const psd_option_id_t id = *told ? PSD_OPT_checkpoint_dir : PSD_OPT_run_dir;
    const char *subject = *told || *run ? psd_option_at(id)->key : "disk";
    struct statvfs space;
    struct statfs kind;
    double large_s, small_s;
    (void)has_job;
    if ((*told || *run) && psd_outputs_probe(o, id, NULL) != PSD_OK)
        return; /* psd_check_outputs reports it */
    find_existing(*told ? told : *run ? run : ".", place);
    snprintf(path, sizeof path, "%s/.psd-doctor-XXXXXX", place);
    if (statvfs(place, &space) != 0 || statfs(place, &kind) != 0) {
        psd_finding(findings, PSD_VERDICT_BAD, subject, "name another directory", "%s: %s", place, strerror(errno));
        return;
    }
    const double free_gib = (double)space.f_bavail * (double)space.f_frsize / (1 << 30);
    if (free_gib < 0.25) {
        psd_finding(findings, PSD_VERDICT_BAD, subject, "free some space, or name another directory", "%s has %.2f GiB free", place,
                    free_gib);
        return;
    }
    const int fd = mkstemp(path);
    if (fd < 0) {
        psd_finding(findings, PSD_VERDICT_BAD, subject, "make it writable for the user that psd runs as, or name another directory",
                    "cannot write into %s: %s", place, strerror(errno));
        return;
    }
    unlink(path);
    const bool good = time_disk(fd, &large_s, &small_s), in_memory = kind.f_type == TMPFS_MAGIC;
    const int why = errno;
    close(fd);
    if (!good)
        psd_finding(findings, PSD_VERDICT_BAD, subject, "free some space, or name another directory", "writing into %s: %s", place,
                    strerror(why));
    else
        psd_finding(findings, small_s > 0.1 || free_gib < 1 || in_memory ? PSD_VERDICT_WARN : PSD_VERDICT_OK, subject,
                    in_memory       ? "it is in memory and is lost with the machine: name a directory on disk"
                    : small_s > 0.1 ? "checkpoints take long here: make fewer (checkpoint.every), or use another directory"
                    : free_gib < 1  ? "free some space, or keep fewer checkpoints (checkpoint.keep)"
                                    : "",
                    "%s: %.1f GiB free, %.0f MB/s with a flush, %.2f ms for a flush of 4 KiB", place, free_gib,
                    WRITE_MIB * 1.048576 / large_s, 1e3 * small_s);
}

void psd_check_outputs(psd_findings_t *findings, const psd_options_t *o, bool has_job)
{
    psd_option_id_t id;
    (void)has_job;
    for (size_t i = 0; (id = psd_outputs_at(i)) != PSD_N_OPTIONS; i++) {
        const char *key = psd_option_at(id)->key;
        psd_err_t err = { 0 };
        if (psd_outputs_probe(o, id, &err) != PSD_OK)
            psd_finding(findings, PSD_VERDICT_BAD, key, "name a place that the user running psd may write to", "%s", err.text);
        else if (*psd_options_string(o, id))
            psd_finding(findings, PSD_VERDICT_OK, key, "", "%s can be written", psd_options_string(o, id));
    }
}

/* -- addresses --------------------------------------------------------------------------------------------- */

/* The psd process that serves status there: "psd job glyphs, training, shard 0 of 2"; "" if there is none. */
static void ask_status(const char *place, const psd_options_t *o, char out[256])
{
    psd_err_t err;
    const char *token = psd_options_string(o, PSD_OPT_status_token);
    json_t *status = psd_http_status(place, *token ? token : NULL, &err);
    *out = '\0';
    if (status)
        snprintf(out, 256, "psd %s serves job %.64s there: %.20s, shard %.0f of %.0f", psd_http_text_at(status, "version"),
                 psd_http_text_at(status, "job"), psd_http_text_at(status, "state"), psd_http_number_at(status, "shard", "index"),
                 psd_http_number_at(status, "shard", "count"));
    json_decref(status);
}

/* Check that psd could listen at an address. */
static void look_at_port(psd_findings_t *findings, const psd_options_t *o, psd_option_id_t id)
{
    char who[256] = "";
    const char *address = psd_options_string(o, id), *key = psd_option_at(id)->key;
    psd_address_t place;
    psd_sockaddr_t at;
    psd_err_t err = { 0 };
    if (!psd_address_split(&place, address))
        return;
    if (psd_address_resolve(&at, &place, &err) != PSD_OK) {
        psd_finding(findings, PSD_VERDICT_BAD, key, "write an address of this machine, or 0.0.0.0 for all of them", "%s: %s",
                    address, err.text);
        return;
    }
    const int fd = socket(at.at.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    const bool is_free = fd >= 0 && bind(fd, (struct sockaddr *)&at.at, at.n) == 0 && listen(fd, 1) == 0;
    const int why = errno;
    if (!is_free && why == EADDRINUSE && id == PSD_OPT_status_listen)
        ask_status(address, o, who);
    if (is_free)
        psd_finding(findings, PSD_VERDICT_OK, key, "", "%s is %s", address, strcmp(place.port, "0") ? "free" : "any free port");
    else if (*who)
        psd_finding(findings, PSD_VERDICT_WARN, key, "give each job on this machine its own ports; 0 takes any free one",
                    "%s is taken: %s", address, who);
    else
        psd_finding(findings, PSD_VERDICT_BAD, key,
                    why == EADDRINUSE ? "stop the program that listens there (ss -ltnp), or use another port; 0 takes any free one"
                                      : "write an address of this machine, or 0.0.0.0 for all of them",
                    "%s: %s", address, strerror(why));
    if (fd >= 0)
        close(fd);
}

void psd_check_ports(psd_findings_t *findings, const psd_options_t *o, bool has_job)
{
    (void)has_job;
    look_at_port(findings, o, PSD_OPT_listen);
    look_at_port(findings, o, PSD_OPT_status_listen);
}

/* ZeroMQ's greeting: ten constant bytes, the version, the security mechanism (ZMTP 3). */
static void describe_greeting(const unsigned char *bytes, size_t n, psd_findings_t *findings, const char *address, bool has_keys)
{
    char mechanism[21] = "";
    if (n == 0) {
        psd_finding(findings, PSD_VERDICT_BAD, "join",
                    "use the port that psd prints as data=, not the port of its status page; a suspended psd is silent, too",
                    "%s accepts the connection, but sends nothing within %d s", address, WAIT_MS / 1000);
        return;
    }
    if (n < 32 || bytes[0] != 0xff || bytes[9] != 0x7f) {
        psd_finding(findings, PSD_VERDICT_BAD, "join", "use the port that psd prints as data=, not the port of its status page",
                    "%s answers, but not in the protocol of psd", address);
        return;
    }
    memcpy(mechanism, bytes + 12, 20);
    const bool wants_keys = !strcmp(mechanism, "CURVE");
    psd_finding(findings, wants_keys == has_keys ? PSD_VERDICT_OK : PSD_VERDICT_BAD, "join",
                wants_keys == has_keys ? ""
                : wants_keys           ? "give --worker-key and --server-public, made by psdctl keygen"
                                       : "give --insecure, or have the servers use keys",
                "%s answers as ZeroMQ %u.%u, %s", address, bytes[10], bytes[11], wants_keys ? "with keys" : "without keys");
}

/* Connect, with WAIT_MS as the limit for each read and write; negative when there is no answer. */
static int dial(const psd_address_t *place)
{
    const struct timeval wait = { .tv_sec = WAIT_MS / 1000 };
    psd_sockaddr_t at;
    if (psd_address_resolve(&at, place, NULL) != PSD_OK)
        return -1;
    const int fd = socket(at.at.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof wait);
    if (fd < 0 || connect(fd, (struct sockaddr *)&at.at, at.n) == 0)
        return fd;
    close(fd);
    return -1;
}

void psd_check_join(psd_findings_t *findings, const psd_options_t *o, bool has_job)
{
    /* Send a greeting up to the version, which is enough to be answered with a complete one, and no more. */
    static const unsigned char greeting[12] = { 0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 1 };
    const char *address = psd_options_string(o, PSD_OPT_join);
    psd_address_t place;
    unsigned char answer[64] = { 0 };
    (void)has_job;
    if (!*address || !psd_address_split(&place, address))
        return;
    const double begun = now_s();
    const int fd = dial(&place);
    if (fd < 0) {
        psd_finding(findings, PSD_VERDICT_BAD, "join", "start server 0, and check its data= address and any firewall in between",
                    "no server answers at %s within %.1f s", address, now_s() - begun);
        return;
    }
    size_t n = 0;
    if (write(fd, greeting, sizeof greeting) == (ssize_t)sizeof greeting)
        for (ssize_t got; n < sizeof answer && (got = read(fd, answer + n, sizeof answer - n)) > 0;)
            n += (size_t)got;
    close(fd);
    describe_greeting(answer, n, findings, address, *psd_options_string(o, PSD_OPT_worker_key));
}

/* -- data -------------------------------------------------------------------------------------------------- */

void psd_check_data(psd_findings_t *findings, const psd_options_t *o, bool has_job)
{
    psd_err_t err = { 0 };
    psd_setup_t setup;
    if (!has_job)
        return;
    if (psd_setup_load(&setup, o, &err) != PSD_OK)
        psd_finding(findings, PSD_VERDICT_BAD, "data", "workers need it; a machine that runs only servers does not", "%s",
                    err.text);
    else if (setup.train->n_skipped)
        psd_finding(findings, PSD_VERDICT_WARN, "data", "fill in the missing values, or set data.na=zero",
                    "%s: %zu rows of %zu features; data.na=skip leaves out %zu with a missing value",
                    psd_options_string(o, PSD_OPT_data_train), setup.train->n_rows, setup.train->n_features,
                    setup.train->n_skipped);
    else if (psd_dataset_has_one_class(setup.train))
        psd_finding(findings, PSD_VERDICT_WARN, "data", "is data.label_column the right one, and are rows of other classes there?",
                    "%s: all %zu rows that are trained on are of one class", psd_options_string(o, PSD_OPT_data_train),
                    setup.train->n_rows);
    else if (setup.train->first_class == 1 && setup.train->n_classes > 2)
        psd_finding(findings, PSD_VERDICT_WARN, "data", "subtract 1 from each label",
                    "%s: %zu rows of %zu features; the labels are 1 to %zu, but classes count from 0: class 0 never occurs",
                    psd_options_string(o, PSD_OPT_data_train), setup.train->n_rows, setup.train->n_features,
                    setup.train->n_classes - 1);
    else
        psd_finding(findings, PSD_VERDICT_OK, "data", "", "%s: %zu rows of %zu features; a model of %zu tensors",
                    psd_options_string(o, PSD_OPT_data_train), setup.train->n_rows, setup.train->n_features,
                    psd_model_n_params(setup.model));
    if (!err.code && psd_setup_check_groups(&setup, o, &err) != PSD_OK)
        psd_finding(findings, PSD_VERDICT_BAD, "groups", "the servers would refuse the model", "%s", err.text);
    psd_setup_clear(&setup);
}
