#include "server/status/report_state.h"

#include <time.h>

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

double psd_report_apply_p99(const psd_report_t *self)
{
    double sorted[256];
    unsigned n = self->n_apply < 256 ? self->n_apply : 256;
    memcpy(sorted, self->apply_s, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, by_size);
    return n ? sorted[n * 99 / 100] : 0;
}

double psd_report_unix_time(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

double psd_report_value(const psd_coordinator_facts_t *facts, const char *name)
{
    for (uint32_t i = 0; i < facts->n_reports; i++)
        if (!strcmp(facts->report[i].name, name))
            return facts->report[i].value;
    return NAN;
}

double psd_report_epoch(const psd_coordinator_facts_t *facts, const psd_engine_t *engine)
{
    const double rows = psd_report_value(facts, PSD_PROGRESS_ROWS);
    return rows >= 1 ? (double)psd_engine_samples(engine) / rows : NAN;
}

bool psd_report_is_free(const char *name)
{
    return strcmp(name, PSD_VALIDATION_LOSS) && strcmp(name, PSD_PROGRESS_ROWS) && strcmp(name, PSD_PROGRESS_LEFT);
}

const char *psd_report_state(const psd_report_t *self, const psd_node_t *node)
{
    const psd_coordinator_t *coordinator = psd_node_coordinator(node);
    if (self->outcome)
        return self->outcome;
    if (!coordinator && psd_engine_first_silent_ms(psd_node_engine(node)))
        return psd_job_state_name(PSD_JOB_DEGRADED);
    const psd_engine_word_t *word = psd_engine_word(psd_node_engine(node));
    if (!coordinator)
        return psd_engine_is_ready(psd_node_engine(node)) && word->known ? psd_job_state_name((psd_job_state_t)word->state)
                                                                         : "waiting";
    psd_coordinator_facts_t facts;
    psd_coordinator_facts(coordinator, &facts);
    return facts.stopped && facts.state == PSD_JOB_FINISHED ? "stopped" : psd_job_state_name(facts.state);
}

/* Of two values the lower one, so that with two workers the slow one is compared with the other. */
static double median(double *x, unsigned n)
{
    qsort(x, n, sizeof *x, by_size);
    return n ? x[(n - 1) / 2] : 0;
}

psd_crowd_t psd_report_crowd(const psd_report_t *self, const psd_node_t *node, const psd_instant_t *now)
{
    static double compute_s[PSD_MAX_WORKERS], send_s[PSD_MAX_WORKERS], serve_s[PSD_MAX_WORKERS]; /* one thread, and 24 KiB */
    const psd_membership_t *m = psd_coordinator_members(psd_node_coordinator(node));
    psd_crowd_t crowd = { .awaited = 1 };
    unsigned n = 0;
    for (uint32_t i = 0; i < m->n_rows; i++) {
        psd_engine_worker_t here;
        psd_pace_facts_t pace;
        if (!psd_engine_worker(psd_node_engine(node), i, &here))
            continue;
        crowd.front = here.applied > crowd.front ? here.applied : crowd.front;
        if (psd_pace_facts(self->pace, i, now->ns, &pace)) {
            compute_s[n] = pace.compute_s;
            serve_s[n] = pace.serve_s;
            send_s[n++] = pace.send_s;
            crowd.awaited = fmin(crowd.awaited, pace.awaited);
        }
    }
    crowd.compute_s = median(compute_s, n);
    crowd.send_s = median(send_s, n);
    crowd.serve_s = median(serve_s, n);
    return crowd;
}

uint64_t psd_report_rejected(const psd_node_t *node, unsigned reason)
{
    psd_coordinator_facts_t facts = { 0 };
    if (psd_node_coordinator(node))
        psd_coordinator_facts(psd_node_coordinator(node), &facts);
    return psd_engine_stats(psd_node_engine(node))->rejected[reason] + facts.rejected[reason];
}

/* The refusal counts of the coordinator, as one text. */
static void take_clauses(psd_report_absent_t *out, const char *text)
{
    while (*text && out->n < PSD_MAX_ABSENT) {
        const char *end = strstr(text, "; ");
        const size_t n = end ? (size_t)(end - text) : strlen(text);
        snprintf(out->text[out->n++], sizeof out->text[0], "%.*s", (int)n, text);
        text += n + (end ? 2 : 0);
    }
}

void psd_report_absent(const psd_report_t *self, const psd_node_t *node, psd_report_absent_t *out)
{
    const psd_engine_t *engine = psd_node_engine(node);
    const uint64_t silent_ms = psd_engine_first_silent_ms(engine);
    *out = (psd_report_absent_t){ .n_lost_servers = silent_ms ? 1 : 0 };
    if (psd_node_coordinator(node)) {
        psd_coordinator_facts_t facts;
        psd_coordinator_facts(psd_node_coordinator(node), &facts);
        out->n = facts.n_absent;
        out->n_lost_servers = facts.n_lost_servers;
        memcpy(out->text, facts.absent, sizeof out->text);
    } else if (silent_ms && !self->outcome) {
        out->n = 1;
        snprintf(out->text[0], sizeof out->text[0], "server 0 at %.100s, silent for %" PRIu64 " s", psd_engine_first(engine),
                 silent_ms / 1000);
    } else if (!self->outcome && psd_engine_is_ready(engine)) {
        take_clauses(out, psd_engine_word(engine)->missing);
    }
}
