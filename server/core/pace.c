#include "server/core/pace.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

#include "proto/message.h"

typedef struct row {
    bool known;
    psd_phase_t phase;
    uint64_t since_ns;    /* when the phase began */
    uint64_t complete_ns; /* when its push was */
    uint64_t born_ns;     /* when this life of it was first seen; 0: it is the first */
    double travel_s;      /* that its weights took to reach it last; INFINITY: it has never said */
    /* sums that forget, as of since_ns */
    double time[PSD_N_PHASES], weight;
    double pushes, samples, awaited;
} row_t;

struct psd_pace {
    bool has_rounds;
    row_t row[PSD_MAX_WORKERS];
    uint32_t n_complete; /* pushes of the open round */
    uint32_t last;       /* whose push was complete last */
    uint64_t first_ns, before_last_ns, last_ns;
    uint64_t closed_ns; /* the round before; 0: none */
};

static double seconds(uint64_t from_ns, uint64_t to_ns) { return to_ns > from_ns ? (double)(to_ns - from_ns) * 1e-9 : 0; }

static uint64_t later(uint64_t a, uint64_t b) { return a > b ? a : b; }

/* How much of `s` seconds that end now is remembered. */
static double remembered(double s) { return PSD_PACE_MEMORY_S * -expm1(-s / PSD_PACE_MEMORY_S); }

/* Let the worker's phase last until `ns`. */
static void advance(row_t *row, uint64_t ns)
{
    double spent = remembered(seconds(row->since_ns, ns)), kept = 1 - spent / PSD_PACE_MEMORY_S;
    for (unsigned i = 0; i < PSD_N_PHASES; i++)
        row->time[i] *= kept;
    row->time[row->phase] += spent;
    row->weight = row->weight * kept + spent;
    row->pushes *= kept;
    row->samples *= kept;
    row->awaited *= kept;
    row->since_ns = ns > row->since_ns ? ns : row->since_ns;
}

/* The weights were on their way until `ns` less `compute_s`, and since then the worker has computed. */
static void split(row_t *row, double compute_s, uint64_t ns)
{
    const double spent = seconds(row->since_ns, ns), computed = compute_s > 0 ? fmin(compute_s, spent) : 0;
    row->phase = PSD_PHASE_SERVING;
    advance(row, ns - (uint64_t)(computed * 1e9));
    row->phase = PSD_PHASE_COMPUTING;
    advance(row, ns);
}

static void enter(row_t *row, psd_phase_t phase, uint64_t ns)
{
    if (!row->known) {
        row->since_ns = ns;
        row->travel_s = INFINITY;
    } else if (row->phase == PSD_PHASE_COMPUTING) {
        split(row, 0, ns); /* it has sent nothing: the weights are sent again */
    } else {
        advance(row, ns);
    }
    row->known = true;
    row->phase = phase;
}

static row_t *row_of(psd_pace_t *self, uint32_t worker)
{
    assert(worker < PSD_MAX_WORKERS && "proto/message.c admits no other");
    return &self->row[worker];
}

psd_pace_t *psd_pace_new(bool has_rounds)
{
    psd_pace_t *self = calloc(1, sizeof *self);
    if (self)
        self->has_rounds = has_rounds;
    return self;
}

void psd_pace_destroy(psd_pace_t **self_p)
{
    free(*self_p);
    *self_p = NULL;
}

void psd_pace_forget(psd_pace_t *self, uint32_t worker, uint64_t ns) { *row_of(self, worker) = (row_t){ .born_ns = ns }; }

void psd_pace_part(psd_pace_t *self, uint32_t worker, double compute_s, uint64_t ns)
{
    row_t *row = row_of(self, worker);
    if (row->known && row->phase == PSD_PHASE_COMPUTING) {
        row->travel_s = fmax(seconds(row->since_ns, ns) - fmax(compute_s, 0), 0);
        split(row, compute_s, ns);
    }
    if (row->phase != PSD_PHASE_SENDING || !row->known)
        enter(row, PSD_PHASE_SENDING, ns);
}

void psd_pace_complete(psd_pace_t *self, uint32_t worker, uint64_t samples, double compute_s, uint64_t ns)
{
    row_t *row = row_of(self, worker);
    psd_pace_part(self, worker, compute_s, ns);
    enter(row, self->has_rounds ? PSD_PHASE_WAITING : PSD_PHASE_SERVING, ns);
    row->complete_ns = ns;
    row->pushes += 1;
    row->samples += (double)samples;
    if (!self->n_complete++)
        self->first_ns = ns;
    self->before_last_ns = self->last_ns;
    self->last_ns = ns;
    self->last = worker;
}

psd_pace_round_t psd_pace_close(psd_pace_t *self, uint64_t ns)
{
    psd_pace_round_t round = { .duration_s = self->closed_ns ? seconds(self->closed_ns, ns) : -1 };
    if (self->has_rounds && self->n_complete)
        round.barrier_s = seconds(self->first_ns, self->last_ns);
    if (self->has_rounds && self->n_complete > 1)
        self->row[self->last].awaited += seconds(later(self->before_last_ns, self->row[self->last].born_ns), self->last_ns);
    for (uint32_t i = 0; i < PSD_MAX_WORKERS && self->n_complete && self->has_rounds; i++)
        if (self->row[i].phase == PSD_PHASE_WAITING) {
            enter(&self->row[i], PSD_PHASE_SERVING, ns);
            self->n_complete--;
        }
    self->n_complete = 0;
    self->closed_ns = ns;
    return round;
}

double psd_pace_answer(psd_pace_t *self, uint32_t worker, uint64_t ns)
{
    row_t *row = row_of(self, worker);
    bool answers = row->known && row->phase >= PSD_PHASE_WAITING;
    enter(row, PSD_PHASE_COMPUTING, ns);
    return answers ? seconds(row->complete_ns, ns) : -1;
}

bool psd_pace_facts(const psd_pace_t *self, uint32_t worker, uint64_t ns, psd_pace_facts_t *out)
{
    row_t row = self->row[worker];
    *out = (psd_pace_facts_t){ .phase = row.phase };
    if (!row.known)
        return false;
    bool lacks = row.phase < PSD_PHASE_WAITING && self->n_complete && self->has_rounds;
    if (row.phase == PSD_PHASE_COMPUTING)
        split(&row, seconds(row.since_ns, ns) - row.travel_s, ns);
    else
        advance(&row, ns);
    if (lacks)
        out->awaiting_s = seconds(later(self->last_ns, row.born_ns), ns);
    if (row.weight > 0) {
        for (unsigned i = 0; i < PSD_N_PHASES; i++)
            out->share[i] = row.time[i] / row.weight;
        out->samples_per_s = row.samples / row.weight;
        out->awaited = fmin((row.awaited + remembered(out->awaiting_s)) / row.weight, 1);
    }
    if (row.pushes > 0) {
        out->compute_s = row.time[PSD_PHASE_COMPUTING] / row.pushes;
        out->send_s = row.time[PSD_PHASE_SENDING] / row.pushes;
        out->serve_s = row.time[PSD_PHASE_SERVING] / row.pushes;
    }
    return true;
}
