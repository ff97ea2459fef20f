/* intake.c - servers that take gradients out of the memory of workers: those that come together are delivered as joint gradients,
 * as server/entrance/intake.c does with threads. */
#include <math.h>

#include "tests/sim/sim_state.h"

/* Put a joint gradient in the place of each payload; nothing, if one of them is damaged or not finite. */
static void join(sim_t *self, event_t *const e[PSD_AGGREGATE_TAKEN], uint32_t n)
{
    psd_buf_t *term[PSD_AGGREGATE_TAKEN] = { NULL };
    double weight[PSD_AGGREGATE_TAKEN], squares[PSD_AGGREGATE_TAKEN];
    bool ok = true;
    for (uint32_t k = 0; k < n; k++) {
        term[k] = e[k]->payload;
        weight[k] = e[k]->weight;
        ok &= term[k]->n_bytes == term[0]->n_bytes && psd_checksum_ok(e[k]->msg, term[k]->data, term[k]->n_bytes);
    }
    event_t mean = { .target = e[0]->target, .msg = e[0]->msg, .payload = psd_buf_new(term[0]->n_bytes) };
    if (ok)
        psd_measured_join(mean.payload->data, term, weight, n, false, squares);
    for (uint32_t k = 0; ok && k < n; k++)
        ok = isfinite(squares[k]);
    sim_watch_payload(self, &mean);
    for (uint32_t k = 0; ok && k < n; k++) {
        psd_buf_unref(&e[k]->payload);
        e[k]->payload = psd_measured_new_joint(mean.payload, squares[k], e[k]->mean);
        e[k]->is_joint = e[k]->msg->proven = true;
        e[k]->msg->checksum = 0;
        self->result->joined++;
    }
    psd_buf_unref(&mean.payload);
}

/* The events of a mean are held no longer: they come, or they are lost. */
static void let_go(sim_t *self, psd_mean_t *mean, uint32_t s, bool comes)
{
    event_t *e[PSD_AGGREGATE_TAKEN] = { NULL };
    uint32_t n = 0;
    for (uint32_t k = 0; k < mean->n; k++)
        if (mean->item[k])
            e[n++] = mean->item[k];
    if (comes && n == mean->n)
        join(self, e, n);
    for (uint32_t k = 0; k < n; k++) {
        psd_means_forget(&self->server[s].means, mean);
        if (comes) {
            sim_schedule(self, *e[k]);
        } else {
            free(e[k]->msg);
            psd_buf_unref(&e[k]->payload);
        }
        free(e[k]);
    }
}

bool sim_hold(sim_t *self, event_t *e)
{
    sim_server_t *server = &self->server[e->target];
    psd_term_t term;
    if (!self->config.joins || e->was_held || !e->payload ||
        !psd_engine_term(psd_node_engine(server->node), e->from, e->msg, &term))
        return false;
    event_t *held = malloc(sizeof *held);
    *held = *e;
    held->at_ms = self->now_ms;
    held->was_held = true;
    held->mean = term.mean;
    held->weight = term.weight;
    psd_mean_t *mean = psd_means_add(&server->means, self->now_ms, &term, held);
    if (!mean) {
        free(held);
        return false;
    }
    e->msg = NULL;
    e->payload = NULL;
    if (!mean->is_held)
        let_go(self, mean, e->target, true);
    else
        sim_schedule(self, (event_t){ .at_ms = psd_means_end_ms(&server->means),
                                      .kind = HELD_LONG_ENOUGH,
                                      .target = e->target,
                                      .life = server->life });
    return true;
}

void sim_on_held_long_enough(sim_t *self, event_t *e, psd_actions_t *out)
{
    (void)out;
    for (psd_mean_t *mean; (mean = psd_means_give_up(&self->server[e->target].means, self->now_ms));)
        let_go(self, mean, e->target, true);
}

void sim_lose_held(sim_t *self, uint32_t s)
{
    for (psd_mean_t *mean; (mean = psd_means_give_up(&self->server[s].means, UINT64_MAX));)
        let_go(self, mean, s, false);
    psd_means_init(&self->server[s].means);
}
