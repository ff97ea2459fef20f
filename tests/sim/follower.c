/* follower.c - followers: each worker's process also reads the weights of the job, again and again, over the same network. What it
 * reads must be the weights that all shards had at the version that it names (bsp). */
#include "tests/sim/sim_state.h"

enum { PAUSE_TICKS = 3 };                  /* between two readings */
#define SEQ_OF_READING (UINT64_C(1) << 60) /* numbers of readings' questions are above, those of sessions below */

/* The weights of a shard at a version, in the order of its chunks. */
struct sim_seen {
    uint64_t run, version;
    uint32_t shard;
    psd_chunk_t *chunk;
    uint32_t n_chunks;
    float *w;
};

void sim_begin_reading(sim_t *self, uint32_t w)
{
    sim_worker_t *me = &self->worker[w];
    const uint64_t nonce = SEQ_OF_READING | me->life << 32 | (uint64_t)(w + 1) << 16;
    if (self->config.follows)
        me->reading = psd_reading_new(&(psd_reading_config_t){ "sim", "eye", nonce, psd_groups_parse });
}

bool sim_reading_takes(const sim_worker_t *me, const psd_msg_t *msg)
{
    if (!me->reading || !psd_reading_takes(msg->kind))
        return false;
    return msg->seq >= SEQ_OF_READING;
}

/* A shard has made a step: note its weights. Threads may be at work on the next one already, so it is not looked at with threads. */
void sim_note_weights(sim_t *self, uint32_t s)
{
    const psd_engine_t *engine = psd_node_engine(self->server[s].node);
    const psd_shard_t *shard = psd_engine_shard(engine);
    const uint64_t run = psd_engine_run(engine), version = psd_engine_version(engine);
    if (!self->config.follows || self->config.threads || !psd_mode_has_rounds(self->mode) || !shard || !run || !version)
        return;
    for (size_t i = self->n_seen; i-- > 0;)
        if (self->seen[i].shard == s && self->seen[i].run == run && self->seen[i].version == version)
            return;
    const psd_partition_t *map = psd_engine_map(engine);
    self->seen = realloc(self->seen, (self->n_seen + 1) * sizeof *self->seen);
    sim_seen_t *seen = &self->seen[self->n_seen++];
    *seen = (sim_seen_t){ .run = run, .version = version, .shard = s, .n_chunks = map->n_held[s] };
    seen->chunk = calloc(seen->n_chunks + 1, sizeof *seen->chunk);
    seen->w = malloc((map->n_elements[s] + 1) * sizeof *seen->w);
    float *to = seen->w;
    for (uint32_t i = 0; i < seen->n_chunks; i++) {
        const psd_chunk_t *c = &map->chunk[map->held[s][i]];
        seen->chunk[i] = *c;
        memcpy(to, (const float *)psd_shard_weights(shard, c->part)->data + c->at, c->n * sizeof *to);
        to += c->n;
    }
}

static void check(sim_t *self, uint32_t w, const psd_reading_t *reading)
{
    for (size_t k = 0; k < self->n_seen; k++) {
        const sim_seen_t *seen = &self->seen[k];
        const float *at = seen->w;
        if (seen->run != psd_reading_run(reading) || seen->version != psd_reading_version(reading))
            continue;
        self->result->readings++;
        for (uint32_t i = 0; i < seen->n_chunks; i++) {
            const psd_chunk_t *c = &seen->chunk[i];
            if (memcmp(psd_reading_weights(reading)[c->tensor] + c->offset, at, c->n * sizeof *at) != 0)
                sim_broken(self, "follower %u read weights of version %" PRIu64 " that shard %u did not have then", w,
                           seen->version, seen->shard);
            at += c->n;
        }
    }
}

void sim_read_message(sim_t *self, uint32_t w, const event_t *e, psd_actions_t *out)
{
    sim_worker_t *me = &self->worker[w];
    const bool was_busy = psd_reading_phase(me->reading) == PSD_READING_PARTS;
    psd_reading_message(me->reading, sim_local_ms(self, &me->clock), e->from, e->msg, e->payload, out);
    if (was_busy && psd_reading_phase(me->reading) == PSD_READING_IDLE && !me->reads_slow)
        check(self, w, me->reading);
}

void sim_tick_reading(sim_t *self, uint32_t w, psd_actions_t *out)
{
    sim_worker_t *me = &self->worker[w];
    const uint64_t now_ms = sim_local_ms(self, &me->clock);
    if (!me->reading)
        return;
    const psd_reading_phase_t phase = psd_reading_phase(me->reading);
    if (phase == PSD_READING_ASKING || phase == PSD_READING_PARTS) {
        psd_reading_tick(me->reading, now_ms, out);
    } else if (++me->reading_ticks % PAUSE_TICKS == 0) {
        me->reads_slow = me->reading_ticks % (4 * PAUSE_TICKS) == 0;
        psd_reading_begin(me->reading, now_ms, me->reads_slow, out);
    }
}

void sim_forget_seen(sim_t *self)
{
    for (size_t i = 0; i < self->n_seen; i++) {
        free(self->seen[i].chunk);
        free(self->seen[i].w);
    }
    free(self->seen);
}
