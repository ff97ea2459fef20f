/* doctor_speed.c - measures how fast a job would be here: its gradient, the link, the codecs; and which codec would make its steps
 * shorter. */
#include <ifaddrs.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "common/codec/codec.h"
#include "common/net/address.h"
#include "common/optim/optimizer.h"
#include "common/optim/passes.h"
#include "deploy/psdctl/doctor/advice.h"
#include "deploy/psdctl/doctor/doctor.h"
#include "proto/message.h"
#include "server/core/mode.h"
#include "worker/setup.h"

enum { CHUNK = 1 << 18, LEAST_MS = 50 };

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* ---- compute ---- */

/* Seconds for a worker's gradient of one step: the fastest of a few. */
static double gradient_s(const psd_setup_t *setup, size_t n_rows)
{
    uint32_t *rows = calloc(n_rows, sizeof *rows);
    double fastest = 0, all = 0;
    for (size_t i = 0; rows && i < n_rows; i++)
        rows[i] = (uint32_t)(i % setup->train->n_rows);
    for (int k = 0; rows && (k < 3 || (all < LEAST_MS / 1e3 && k < 1000)); k++) {
        const double begun = now_s();
        psd_model_gradient(setup->model, setup->train, rows, n_rows);
        const double took = now_s() - begun;
        fastest = k && fastest < took ? fastest : took;
        all += took;
    }
    free(rows);
    return fastest;
}

/* ---- link ---- */

/* Whether the two entries belong to one interface. */
static bool is_same(const struct sockaddr *a, const struct sockaddr *b)
{
    if (!a || a->sa_family != b->sa_family)
        return false;
    if (a->sa_family == AF_INET)
        return !memcmp(&((const struct sockaddr_in *)(const void *)a)->sin_addr,
                       &((const struct sockaddr_in *)(const void *)b)->sin_addr, sizeof(struct in_addr));
    return a->sa_family == AF_INET6 && !memcmp(&((const struct sockaddr_in6 *)(const void *)a)->sin6_addr,
                                               &((const struct sockaddr_in6 *)(const void *)b)->sin6_addr, sizeof(struct in6_addr));
}

/* The interface by which packets go to `address`; false when there is none. */
static bool interface_to(const char *address, char name[IF_NAMESIZE])
{
    psd_address_t place;
    psd_sockaddr_t at;
    psd_sockaddr_t own = { .n = sizeof own.at };
    struct ifaddrs *all = NULL;
    if (!psd_address_split(&place, address) || psd_address_resolve(&at, &place, NULL) != PSD_OK)
        return false;
    const int fd = socket(at.at.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0); /* connect on a UDP socket sends nothing */
    bool found = fd >= 0 && connect(fd, (struct sockaddr *)&at.at, at.n) == 0 &&
                 getsockname(fd, (struct sockaddr *)&own.at, &own.n) == 0 && getifaddrs(&all) == 0;
    if (found) {
        found = false;
        for (const struct ifaddrs *i = all; i && !found; i = i->ifa_next)
            if ((found = is_same(i->ifa_addr, (struct sockaddr *)&own.at)))
                snprintf(name, IF_NAMESIZE, "%s", i->ifa_name);
        freeifaddrs(all);
    }
    if (fd >= 0)
        close(fd);
    return found;
}

/* The speed that the interface reports, in bytes per second; 0: unknown. */
static double speed_of(const char *interface)
{
    char path[64 + IF_NAMESIZE];
    double megabits = 0;
    snprintf(path, sizeof path, "/sys/class/net/%s/speed", interface);
    FILE *file = fopen(path, "re");
    if (!file)
        return 0;
    if (fscanf(file, "%lf", &megabits) != 1 || megabits < 0)
        megabits = 0;
    fclose(file);
    return megabits * 1e6 / 8;
}

/* Bytes per second at which one side copies into memory that the other reads: the fastest of a few. */
static double memory_speed(void)
{
    enum { N = 16 << 20 };
    uint8_t *from = malloc(2 * (size_t)N);
    double fastest = 0;
    if (!from)
        return 0;
    memset(from, 1, 2 * (size_t)N);
    for (int k = 0; k < 5; k++) {
        const double begun = now_s();
        memcpy(from + N, from, N);
        const double speed = N / (now_s() - begun);
        fastest = speed > fastest ? speed : fastest;
        from[k] = from[N + k + 1]; /* so that none of it is left out */
    }
    free(from);
    return fastest;
}

/* The speed of the link to the servers, each way. For another host, the speed that the interface towards `join` reports, otherwise
 * that of the loopback. On one host payloads go through memory, unless net.local is off. */
static double link_speed(const psd_options_t *o, bool *away, char text[96])
{
    char name[IF_NAMESIZE] = "";
    const char *join = psd_options_string(o, PSD_OPT_join);
    const bool is_away = *away = *join && interface_to(join, name) && strcmp(name, "lo") != 0;
    double speed = is_away ? speed_of(name) : 0;
    if (speed > 0) {
        snprintf(text, 96, "%s, which reports %.4g Gbit/s", name, speed * 8 / 1e9);
    } else if (!is_away && !strcmp(psd_options_string(o, PSD_OPT_net_local), "auto")) {
        speed = memory_speed();
        snprintf(text, 96, "this host's memory, measured at %.3g Gbit/s", speed * 8 / 1e9);
    } else {
        speed = psd_loopback_speed();
        snprintf(text, 96,
                 is_away ? "%s (which reports no speed; taken as the loopback's %.3g Gbit/s)"
                         : "%sthe loopback, measured at %.3g Gbit/s",
                 is_away ? name : "", speed * 8 / 1e9);
    }
    return speed;
}

/* Whether a job's weights leave while gradients still come, on a link to another host: server/core/ahead.h. */
static bool overlaps(const psd_options_t *o)
{
    psd_groups_t groups;
    const psd_clip_t clip = { .value = psd_options_double(o, PSD_OPT_clip_value),
                              .norm = psd_options_double(o, PSD_OPT_clip_norm) };
    return !strcmp(psd_options_string(o, PSD_OPT_net_overlap), "auto") && psd_options_int(o, PSD_OPT_sync_accumulate) <= 1 &&
           psd_options_int(o, PSD_OPT_workers_min) <= PSD_MOST_AHEAD &&
           psd_mode_has_rounds(psd_mode_find(psd_options_string(o, PSD_OPT_sync_mode))) &&
           psd_groups_parse(&groups, psd_options_string(o, PSD_OPT_optimizer), psd_options_text(o, PSD_OPT_groups), NULL) ==
               PSD_OK &&
           !psd_passes_of(&groups, &clip).n;
}

/* ---- codecs ---- */

/* Seconds per byte of floats to encode and to decode. */
typedef struct pace {
    double code, decode;
} pace_t;

static pace_t pace_of(const psd_coding_t *coding, const float *g, float *residual, uint8_t *code, float *out)
{
    pace_t fastest = { 0 };
    double all = 0;
    for (int k = 0; k < 3 || (all < LEAST_MS / 1e3 && k < 1000); k++) {
        const double begun = now_s();
        psd_coding_encode(coding, g, residual, CHUNK, code);
        const double coded = now_s();
        psd_coding_decode(coding, code, CHUNK, 0, CHUNK, out);
        const double decoded = now_s();
        fastest.code = k && fastest.code < coded - begun ? fastest.code : coded - begun;
        fastest.decode = k && fastest.decode < decoded - coded ? fastest.decode : decoded - coded;
        all += decoded - begun;
    }
    return (pace_t){ fastest.code / (CHUNK * sizeof *g), fastest.decode / (CHUNK * sizeof *g) };
}

/* A chunk with a distribution like that of gradients: many small values, few large ones. */
static void fill(float *g)
{
    uint32_t x = 1;
    for (size_t i = 0; i < CHUNK; i++) {
        x = x * 1664525u + 1013904223u;
        const float u = (float)(x >> 8) / (float)(1u << 24) - 0.5f;
        g[i] = u * u * u;
    }
}

/* The cost of a way here, measured on one thread; a server decodes every worker's gradient for its shard. */
static bool measure(psd_way_t *way, const psd_speeds_t *s)
{
    psd_coding_t push, pull;
    float *g = calloc(3 * (size_t)CHUNK, sizeof *g);
    uint8_t *code = malloc((size_t)CHUNK * PSD_MAX_CODED);
    const bool ok =
        g && code && psd_coding_parse(&push, way->push, NULL) == PSD_OK && psd_coding_parse(&pull, way->pull, NULL) == PSD_OK;
    if (ok) {
        fill(g);
        const pace_t up = pace_of(&push, g, g + CHUNK, code, g + 2 * CHUNK), down = pace_of(&pull, g, NULL, code, g + 2 * CHUNK);
        way->push_share = (double)psd_coding_bytes(&push, CHUNK) / (CHUNK * sizeof *g);
        way->pull_share = (double)psd_coding_bytes(&pull, CHUNK) / (CHUNK * sizeof *g);
        way->code_s = psd_coding_is_lossless(&push)
                          ? 0
                          : s->n_bytes * (up.code + up.decode * s->workers / s->servers + down.code / s->servers + down.decode);
    }
    free(g);
    free(code);
    return ok;
}

/* ---- the advice ---- */

enum { MOST_WAYS = 5 };

/* The codecs that work with this rule, sorted by increasing loss (measured by tests/bench/codec_accuracy.py). For a rule by vote,
 * sign loses nothing. For gradients, sign suits rules that are linear in them, because the residual then has the same effect later;
 * other rules would see one magnitude for a whole block. */
static size_t ways_of(const psd_rule_t *rule, psd_way_t way[MOST_WAYS])
{
    static const char *const linear[] = { "sgd", "momentum", "nesterov" };
    size_t n = 0;
    bool is_linear = false;
    for (size_t i = 0; i < sizeof linear / sizeof *linear; i++)
        is_linear |= !strcmp(rule->opt->name, linear[i]);
    way[n++] = (psd_way_t){ .push = "f32", .pull = "f32" };
    if (psd_rule_votes(rule)) {
        way[n++] = (psd_way_t){ .push = "sign", .pull = "f32" };
        way[n++] = (psd_way_t){ .push = "sign", .pull = "bf16" };
        return n;
    }
    way[n++] = (psd_way_t){ .push = "bf16", .pull = "bf16" };
    way[n++] = (psd_way_t){ .push = "int8", .pull = "bf16" };
    way[n++] = (psd_way_t){ .push = "topk(0.1)", .pull = "bf16" };
    if (is_linear)
        way[n++] = (psd_way_t){ .push = "sign", .pull = "bf16" };
    return n;
}

static void advise(psd_findings_t *findings, const psd_rule_t *rule, const psd_speeds_t *s, const char *link)
{
    psd_way_t way[MOST_WAYS];
    const size_t n = ways_of(rule, way);
    for (size_t i = 0; i < n; i++)
        if (!measure(&way[i], s)) {
            psd_finding(findings, PSD_VERDICT_BAD, "codec", "free some memory", "no memory to measure codecs");
            return;
        }
    const size_t best = psd_advise(s, way, n);
    const double plain = psd_advice_step(s, &way[0]), edge = psd_advice_pays_below(s, &way[0], &way[1]);
    char figures[320];
    snprintf(figures, sizeof figures,
             "without one a step takes about %.3g ms: the gradient %.3g ms, and %.3g MB each way%s over %s, for %u %s and %u %s",
             plain * 1e3, s->compute_s * 1e3, s->n_bytes / 1e6, s->overlaps ? ", at the same time," : "", link, s->workers,
             s->workers == 1 ? "worker" : "workers", s->servers, s->servers == 1 ? "server" : "servers");
    if (best)
        psd_finding(findings, PSD_VERDICT_OK, "codec",
                    "nothing was changed; see \"Fewer bytes\" in docs/modes.md for what a codec loses",
                    "codec.push=%s with codec.pull=%s may shorten a step to %.3g ms, of which coding takes %.3g ms; %s",
                    way[best].push, way[best].pull, psd_advice_step(s, &way[best]) * 1e3, way[best].code_s * 1e3, figures);
    else
        psd_finding(findings, PSD_VERDICT_OK, "codec", "",
                    "none would shorten a step by more than 5 %%: %s; %s, coded in %.3g ms, pays on links below %.3g Gbit/s",
                    figures, way[1].push, way[1].code_s * 1e3, edge * 8 / 1e9);
}

void psd_check_codec(psd_findings_t *findings, const psd_options_t *o, bool has_job)
{
    psd_setup_t setup = { .model = NULL };
    psd_rule_t rule;
    char link[96];
    bool is_away = false;
    psd_speeds_t s = { .workers = (unsigned)psd_options_int(o, PSD_OPT_workers_min),
                       .servers = (unsigned)psd_options_int(o, PSD_OPT_servers) };
    if (!has_job)
        return;
    const bool is_there = psd_rule_parse(&rule, psd_options_string(o, PSD_OPT_optimizer), NULL) == PSD_OK &&
                          psd_setup_load(&setup, o, NULL) == PSD_OK;
    if (is_there) {
        s.n_bytes = (double)psd_model_n_elements(setup.model) * sizeof(float);
        s.compute_s = gradient_s(&setup, (setup.batch + s.workers - 1) / s.workers);
        s.link_bytes_s = link_speed(o, &is_away, link);
        s.overlaps = is_away && overlaps(o);
    }
    if (is_there && s.link_bytes_s > 0)
        advise(findings, &rule, &s, link);
    else
        psd_finding(findings, PSD_VERDICT_OK, "codec", "", "no recommendation: %s",
                    is_there ? "the link cannot be measured" : "no step can be measured, see data");
    psd_setup_clear(&setup);
}
