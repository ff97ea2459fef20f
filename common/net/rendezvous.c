#include "common/net/rendezvous.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/net/hostlist.h"
#include "common/system/log.h"

enum {
    PORT = 7470,
    MAX_RANK = 65535,
    MAX_WORKER = 1024,
    SLURM_PORT = 20000, /* server 0 of Slurm's job N listens at this, plus N modulo SLURM_PORTS: jobs that share a node */
    SLURM_PORTS = 10000 /* take different ports */
};

typedef struct look {
    psd_rendezvous_t *out;
    psd_program_t program;
    const psd_options_t *options;
    const psd_surroundings_t *around;
    int rank;      /* from the source of the place; -1: none */
    int n_servers; /* from the same source; 0: unknown */
    bool own_host; /* each process has its own host, so all ports are free */
    bool own_port; /* all servers use the same port */
} look_t;

static bool is_server(const look_t *look) { return look->program == PSD_PROGRAM_SERVER; }

static const char *variable(const look_t *look, const char *name)
{
    const char *text = look->around->variable(look->around->arg, name);
    return text && *text ? text : NULL;
}

static bool by_flag(const look_t *look, psd_option_id_t id) { return !strncmp(psd_options_origin(look->options, id), "--", 2); }

static bool is_given(const look_t *look, psd_option_id_t id)
{
    return strcmp(psd_options_origin(look->options, id), "default") != 0;
}

/* A whole number from `least` to `most`, of a variable. */
static int read_number(const look_t *look, const char *name, long least, long most, long *out, psd_err_t *err)
{
    const char *text = variable(look, name);
    char *end = NULL;
    errno = 0;
    *out = text && isdigit((unsigned char)*text) ? strtol(text, &end, 10) : -1;
    if (!end || *end || errno || *out < least || *out > most)
        return psd_err_set(err, PSD_ECONFIG, "environment %s is \"%.60s\", not a whole number from %ld to %ld", name,
                           text ? text : "", least, most);
    return PSD_OK;
}

/* ---- the address to join ---- */

static int set_join(look_t *look, psd_err_t *err, const char *format, ...) __attribute__((format(printf, 3, 4)));

static int set_join(look_t *look, psd_err_t *err, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(look->out->join, sizeof look->out->join, format, args);
    va_end(args);
    return n < (int)sizeof look->out->join
               ? PSD_OK
               : psd_err_set(err, PSD_ECONFIG, "the address of server 0 is too long: %.60s...", look->out->join);
}

/* The port of an address, 0 when it has none. */
static unsigned port_of(const char *address)
{
    const char *colon = strrchr(address, ':');
    return colon ? (unsigned)strtoul(colon + 1, NULL, 10) : 0;
}

static unsigned told_port(const look_t *look, unsigned otherwise)
{
    unsigned port = is_given(look, PSD_OPT_listen) ? port_of(psd_options_string(look->options, PSD_OPT_listen)) : 0;
    return port ? port : otherwise;
}

static bool has_join(const look_t *look) { return *psd_options_string(look->options, PSD_OPT_join); }

static int take_join(look_t *look, psd_err_t *err)
{
    look->out->source = psd_options_origin(look->options, PSD_OPT_join);
    look->own_host = by_flag(look, PSD_OPT_join);
    return set_join(look, err, "%s", psd_options_string(look->options, PSD_OPT_join));
}

static bool has_file(const look_t *look) { return *look->out->file; }
static int take_file(look_t *look, psd_err_t *err) { return (void)look, (void)err, PSD_OK; }

static bool has_slurm(const look_t *look) { return variable(look, "SLURM_JOB_NODELIST_HET_GROUP_0"); }

/* Group 0 of a heterogeneous job has the servers, in order. Its first node runs its first task, server 0. */
static int take_slurm(look_t *look, psd_err_t *err)
{
    char host[PSD_RENDEZVOUS_TEXT / 2];
    long job, n_servers;
    if (psd_hostlist_at(variable(look, "SLURM_JOB_NODELIST_HET_GROUP_0"), 0, host, sizeof host, err) != PSD_OK)
        return err->code = PSD_ECONFIG, psd_err_wrap(err, "environment SLURM_JOB_NODELIST_HET_GROUP_0");
    if (read_number(look, "SLURM_JOB_ID_HET_GROUP_0", 0, INT32_MAX, &job, err) != PSD_OK ||
        read_number(look, "SLURM_NTASKS_HET_GROUP_0", 1, MAX_RANK, &n_servers, err) != PSD_OK)
        return err->code;
    if (is_server(look) && !variable(look, "SLURM_STEP_ID"))
        return psd_err_set(
            err, PSD_ECONFIG,
            "this is Slurm's batch script: start psd with srun --het-group=0, or give --server-index=0 if it is the only server");
    look->n_servers = (int)n_servers;
    return set_join(look, err, "tcp://%s:%u", host, told_port(look, SLURM_PORT + (unsigned)(job % SLURM_PORTS)));
}

static bool has_service(const look_t *look) { return *psd_options_string(look->options, PSD_OPT_service); }

/* Pod N of the StatefulSet "ps" has the host name ps-N, and in the headless service of that name the DNS name
 * ps-N.ps. */
static int take_service(look_t *look, psd_err_t *err)
{
    const char *service = psd_options_string(look->options, PSD_OPT_service), *host = look->around->host_name;
    const int n = (int)strcspn(service, ".");
    char *end = NULL;
    look->own_host = look->own_port = true;
    if (!is_server(look))
        return set_join(look, err, "tcp://%.*s-0.%s:%u", n, service, service, told_port(look, PORT));
    if (!strncmp(host, service, (size_t)n) && host[n] == '-' && isdigit((unsigned char)host[n + 1]))
        look->rank = (int)strtol(host + n + 1, &end, 10);
    if (!end || (*end && *end != '.') || look->rank < 0 || look->rank > MAX_RANK)
        return psd_err_set(err, PSD_ECONFIG,
                           "the host name %.60s is not that of a pod %.*s-0, %.*s-1, ... of service %.60s: give the StatefulSet "
                           "the name of its service, or set join",
                           host, n, service, n, service, service);
    snprintf(look->out->advertise, sizeof look->out->advertise, "%.*s-%d.%.60s", n, service, look->rank, service);
    return set_join(look, err, "tcp://%.*s-0.%s:%u", n, service, service, told_port(look, PORT));
}

static bool has_tf_config(const look_t *look) { return variable(look, "TF_CONFIG"); }

static int is_no_tf_config(psd_err_t *err, const char *why)
{
    return psd_err_set(err, PSD_ECONFIG,
                       "environment TF_CONFIG %s; expected is {\"cluster\": {\"ps\": [\"HOST:PORT\"], \"worker\": "
                       "[...]}, \"task\": {\"type\": \"ps\", \"index\": 0}}",
                       why);
}

static int unpack_tf_config(look_t *look, const json_t *all, psd_err_t *err)
{
    const json_t *cluster = json_object_get(all, "cluster"), *task = json_object_get(all, "task");
    const json_t *ps = json_object_get(cluster, "ps"), *index = json_object_get(task, "index");
    const char *type = json_string_value(json_object_get(task, "type")), *first = json_string_value(json_array_get(ps, 0));
    const bool is_ps = type && !strcmp(type, "ps"), is_chief = type && (!strcmp(type, "chief") || !strcmp(type, "master"));
    if (!first || !port_of(first))
        return is_no_tf_config(err, "names no ps at which server 0 could be");
    if (!type || !json_is_integer(index) || json_integer_value(index) < 0 || json_integer_value(index) > MAX_RANK)
        return is_no_tf_config(err, "does not say which task this is");
    if (is_server(look) ? !is_ps : !is_chief && strcmp(type, "worker"))
        return psd_err_set(err, PSD_ECONFIG, "environment TF_CONFIG has a task of type %.30s, but this is %s", type,
                           is_server(look) ? "psd, which is of type ps" : "psd-worker, which is of type worker or chief");
    look->rank = (int)json_integer_value(index);
    look->own_host = true;
    look->n_servers = (int)json_array_size(ps);
    if (!is_server(look)) /* a chief is the first worker */
        look->rank +=
            is_chief
                ? 0
                : (int)(json_array_size(json_object_get(cluster, "chief")) + json_array_size(json_object_get(cluster, "master")));
    const char *own = is_ps ? json_string_value(json_array_get(ps, (size_t)look->rank)) : NULL;
    if (is_ps && (!own || !port_of(own)))
        return is_no_tf_config(err, "has no ps of this task's index");
    if (is_ps)
        snprintf(look->out->advertise, sizeof look->out->advertise, "%s", own);
    return set_join(look, err, "tcp://%s", first);
}

static int take_tf_config(look_t *look, psd_err_t *err)
{
    json_t *all = json_loads(variable(look, "TF_CONFIG"), JSON_REJECT_DUPLICATES, NULL);
    int rc = all ? unpack_tf_config(look, all, err) : is_no_tf_config(err, "is not JSON");
    json_decref(all);
    return rc;
}

static bool has_dmlc(const look_t *look) { return variable(look, "DMLC_PS_ROOT_URI") || variable(look, "DMLC_TRACKER_URI"); }

/* The root is the meeting point of all processes: server 0, in psd. Its process may have the role scheduler. */
static int take_dmlc(look_t *look, psd_err_t *err)
{
    const bool root = variable(look, "DMLC_PS_ROOT_URI");
    const char *role = variable(look, "DMLC_ROLE");
    long port, task = -1;
    if (read_number(look, root ? "DMLC_PS_ROOT_PORT" : "DMLC_TRACKER_PORT", 1, 65535, &port, err) != PSD_OK)
        return err->code;
    if (role && strcmp(role, "worker") && strcmp(role, "server") && strcmp(role, "scheduler"))
        return psd_err_set(err, PSD_ECONFIG, "environment DMLC_ROLE is \"%.30s\"; it is worker, server or scheduler", role);
    if (role && is_server(look) == !strcmp(role, "worker"))
        return psd_err_set(err, PSD_ECONFIG, "environment DMLC_ROLE is %.30s, but this is %s", role,
                           is_server(look) ? "psd" : "psd-worker");
    if (variable(look, "DMLC_TASK_ID") && read_number(look, "DMLC_TASK_ID", 0, MAX_RANK, &task, err) != PSD_OK)
        return err->code;
    look->rank = role && !strcmp(role, "scheduler") ? 0 : (int)task;
    return set_join(look, err, "tcp://%s:%ld", variable(look, root ? "DMLC_PS_ROOT_URI" : "DMLC_TRACKER_URI"), port);
}

/* The first row that has a value counts. */
static const struct {
    const char *name; /* NULL: the origin of the option */
    bool (*has)(const look_t *look);
    int (*take)(look_t *look, psd_err_t *err);
} places[] = {
    { NULL, has_join, take_join },
    { "cluster.file", has_file, take_file },
    { "Slurm", has_slurm, take_slurm },
    { "service", has_service, take_service },
    { "TF_CONFIG", has_tf_config, take_tf_config },
    { "DMLC_PS_ROOT_URI", has_dmlc, take_dmlc },
};

static int find_place(look_t *look, psd_err_t *err)
{
    for (size_t i = 0; i < sizeof places / sizeof *places; i++)
        if (places[i].has(look)) {
            look->out->source = places[i].name;
            return places[i].take(look, err);
        }
    return PSD_OK;
}

/* ---- this process's number ---- */

/* The innermost launcher comes first: mpirun may run inside a Slurm job, whose own numbers are then those of other processes. A
 * rank without its size does not count: it is from another program, or from a batch script. */
static const struct {
    const char *rank, *size;
} ranks[] = {
    { "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE" },
    { "SLURM_PROCID", "SLURM_STEP_NUM_TASKS" },
    { "PMI_RANK", "PMI_SIZE" },
    { "JOB_COMPLETION_INDEX", NULL },
    { "RANK", "WORLD_SIZE" },
};

/* Whether servers and workers share one world, as in mpirun -np 2 psd : -np 3 psd-worker, with the servers first. */
static bool is_one_world(const look_t *look, long size)
{
    const int64_t least = psd_options_int(look->options, PSD_OPT_workers_min),
                  want = psd_options_int(look->options, PSD_OPT_workers_want);
    return size == psd_options_int(look->options, PSD_OPT_servers) + (want > least ? want : least);
}

static int find_rank(const look_t *look, int *out, psd_err_t *err)
{
    *out = (int)psd_options_int(look->options, PSD_OPT_rank);
    look->out->rank_source = psd_options_origin(look->options, PSD_OPT_rank);
    if (*out >= 0)
        return PSD_OK;
    *out = look->rank;
    look->out->rank_source = look->out->source;
    for (size_t i = 0; *out < 0 && i < sizeof ranks / sizeof *ranks; i++) {
        long rank, size = 0;
        if (!variable(look, ranks[i].rank) || (ranks[i].size && !variable(look, ranks[i].size)))
            continue;
        if (read_number(look, ranks[i].rank, 0, MAX_RANK, &rank, err) != PSD_OK ||
            (ranks[i].size && read_number(look, ranks[i].size, 1, INT32_MAX, &size, err) != PSD_OK))
            return err->code;
        const long n_servers = (long)psd_options_int(look->options, PSD_OPT_servers);
        *out = (int)(!is_server(look) && is_one_world(look, size) && rank >= n_servers ? rank - n_servers : rank);
        look->out->rank_source = ranks[i].rank;
    }
    if (*out < 0)
        look->out->rank_source = NULL;
    return PSD_OK;
}

/* ---- addresses ---- */

/* Whether only processes of this machine use the address, so that it need not be reachable from others. */
static bool stays_here(const look_t *look)
{
    const char *join = look->out->join;
    return psd_options_bool(look->options, PSD_OPT_insecure) || !strncmp(join, "tcp://127.", 10) ||
           !strncmp(join, "tcp://localhost:", 16) || !strncmp(join, "ipc://", 6);
}

/* Server 0 listens at the address that others join; the other servers take any free port. Options override this. */
static void choose_addresses(look_t *look)
{
    psd_rendezvous_t *out = look->out;
    const psd_options_t *o = look->options;
    const bool found = *out->join || *out->file;
    const bool fixed = out->is_first ? *out->join : look->own_port; /* others know the port */
    const unsigned port = look->own_host && *out->advertise && port_of(out->advertise) ? port_of(out->advertise)
                          : fixed                                                      ? port_of(out->join)
                                                                                       : 0;
    snprintf(out->listen, sizeof out->listen, "%s", psd_options_string(o, PSD_OPT_listen));
    snprintf(out->status, sizeof out->status, "%s", psd_options_string(o, PSD_OPT_status_listen));
    if (*psd_options_string(o, PSD_OPT_advertise))
        snprintf(out->advertise, sizeof out->advertise, "%s", psd_options_string(o, PSD_OPT_advertise));
    if (found && !is_given(look, PSD_OPT_listen) && out->is_first && !strncmp(out->join, "ipc://", 6))
        snprintf(out->listen, sizeof out->listen, "%s", out->join);
    else if (found && !is_given(look, PSD_OPT_listen))
        snprintf(out->listen, sizeof out->listen, "tcp://%s:%u", stays_here(look) ? "127.0.0.1" : "0.0.0.0", port);
    if (found && !is_given(look, PSD_OPT_status_listen) && !look->own_host)
        snprintf(out->status, sizeof out->status, "127.0.0.1:0");
    if (out->is_first)
        out->join[0] = '\0';
}

static int settle_server(look_t *look, int rank, psd_err_t *err)
{
    psd_rendezvous_t *out = look->out;
    const int n_servers = (int)psd_options_int(look->options, PSD_OPT_servers);
    const int told = (int)psd_options_int(look->options, PSD_OPT_server_index);
    const bool found = *out->join || *out->file;
    if (told >= 0)
        out->rank_source = "server.index";
    out->index = told >= 0 ? told : rank;
    if (look->n_servers && look->n_servers != n_servers)
        return psd_err_set(err, PSD_ECONFIG, "%s has %d server%s, but the job has %d: set servers, or start that many", out->source,
                           look->n_servers, look->n_servers == 1 ? "" : "s", n_servers);
    if (out->index >= n_servers)
        return psd_err_set(err, PSD_ECONFIG, "this is server %d by %s, but the job has servers 0 to %d: set servers", out->index,
                           out->rank_source, n_servers - 1);
    if (out->index > 0 && !found)
        return psd_err_set(err, PSD_ECONFIG,
                           "this is server %d by %s, but the address of server 0 is missing: set join (PSD_JOIN), or cluster.file "
                           "in a directory that all processes share",
                           out->index, out->rank_source);
    if (out->index < 0 && *out->file && !*out->join && n_servers > 1)
        return psd_err_set(
            err, PSD_ECONFIG,
            "with cluster.file, each of the %d servers needs its number: set server.index, or start it by srun or mpirun",
            n_servers);
    out->is_first = by_flag(look, PSD_OPT_join) ? false : found && *out->join ? out->index == 0 : out->index <= 0;
    choose_addresses(look);
    return PSD_OK;
}

static int settle_worker(look_t *look, int rank, psd_err_t *err)
{
    psd_rendezvous_t *out = look->out;
    const int told = (int)psd_options_int(look->options, PSD_OPT_worker_id);
    out->worker = told >= 0 ? told : rank < MAX_WORKER ? rank : -1;
    if (told >= 0)
        out->rank_source = "worker.id";
    if (*out->join || *out->file)
        return PSD_OK;
    return psd_err_set(err, PSD_EUSAGE,
                       "no server to join: set --join to the address of server 0, such as --join tcp://127.0.0.1:7470, or "
                       "cluster.file in a directory that all processes share");
}

int psd_rendezvous_find(psd_rendezvous_t *out, psd_program_t program, const psd_options_t *options,
                        const psd_surroundings_t *around, psd_err_t *err)
{
    look_t look = { .out = out, .program = program, .options = options, .around = around, .rank = -1 };
    const uint64_t limit_ms = psd_options_ms(options, PSD_OPT_join_timeout);
    *out = (psd_rendezvous_t){ .source = "none", .index = -1, .worker = -1 };
    out->join_timeout_ms = limit_ms == 0 ? -1 : limit_ms < INT_MAX ? (int)limit_ms : INT_MAX;
    snprintf(out->file, sizeof out->file, "%s", psd_options_string(options, PSD_OPT_cluster_file));
    /* The command line gives this process's number, so no launcher is consulted. */
    const bool by_hand = by_flag(&look, PSD_OPT_join) || (is_server(&look) && by_flag(&look, PSD_OPT_server_index) &&
                                                          !psd_options_int(options, PSD_OPT_server_index));
    int rank = (int)psd_options_int(options, PSD_OPT_rank);
    int rc = PSD_OK;
    if (!by_hand)
        rc = find_place(&look, err);
    else if (has_join(&look) && by_flag(&look, PSD_OPT_join))
        rc = take_join(&look, err);
    if (rc == PSD_OK && !by_hand)
        rc = find_rank(&look, &rank, err);
    else if (rank >= 0)
        out->rank_source = psd_options_origin(options, PSD_OPT_rank);
    if (rc != PSD_OK)
        return rc;
    return (is_server(&look) ? settle_server : settle_worker)(&look, rank, err);
}

static const char *own_variable(void *arg, const char *name) { return (void)arg, getenv(name); }

int psd_rendezvous_find_own(psd_rendezvous_t *out, psd_program_t program, const psd_options_t *options, psd_err_t *err)
{
    char host[256] = "";
    gethostname(host, sizeof host - 1);
    int rc = psd_rendezvous_find(out, program, options, &(psd_surroundings_t){ own_variable, host, NULL }, err);
    if (rc == PSD_OK && strcmp(out->source, "none"))
        psd_log_info("rendezvous", "source=%s join=%s %s=%d by=%s", out->source,
                     out->is_first ? "here"
                     : *out->join  ? out->join
                                   : out->file,
                     program == PSD_PROGRAM_SERVER ? "index" : "worker", program == PSD_PROGRAM_SERVER ? out->index : out->worker,
                     out->rank_source ? out->rank_source : "server-0");
    return rc;
}
