/* network.c - the delivery of messages: a message may be lost, come twice, late, or out of order, or wait for a link that is
 * cut. */
#include "tests/sim/sim_state.h"

uint64_t sim_delay(sim_t *self) { return self->config.delay_ms ? sim_draw(self, self->config.delay_ms) : 0; }

/* A server's ROUTER has another id for each start of a peer, like ZeroMQ's automatic routing ids. */
#define ROUTER_BIT (UINT64_C(1) << 63)
psd_peer_t sim_worker_peer(uint32_t w, uint64_t life) { return ROUTER_BIT | life << 16 | w << 1; }
psd_peer_t sim_server_peer(const sim_t *self, uint32_t s) { return ROUTER_BIT | self->server[s].life << 16 | s << 1 | 1; }
static uint32_t index_in(psd_peer_t peer) { return (uint32_t)(peer >> 1 & 0x7fff); }
static uint64_t life_in(psd_peer_t peer) { return peer >> 16 & 0xffffffff; }

/* Everything travels as bytes, so that the checks of messages see all messages of the machines. */
static psd_msg_t *over_the_wire(sim_t *self, const psd_action_t *a, uint32_t from, uint32_t to, psd_buf_t **payload)
{
    uint8_t frame[PSD_MAX_FRAME_HEADER];
    psd_err_t err;
    psd_buf_t *bytes, *own;
    psd_msg_t *copy = malloc(sizeof *copy);
    const uint64_t began_ns = uv_hrtime();
    const size_t n = psd_wire_write(&a->msg, a->payload, false, frame, &bytes);
    const uint64_t written_ns = uv_hrtime();
    own = bytes ? psd_payload_copy(bytes->data, bytes->n_bytes) : NULL; /* a copy that the sender cannot change */
    if (psd_wire_read(copy, payload, frame, n, own, &err) != PSD_OK)
        sim_broken(self, "a machine sent a message that is refused: %s", err.text);
    if (sim_is_leaders(a->msg.kind))
        self->result->leader_ns += from ? to ? 0 : uv_hrtime() - written_ns : written_ns - began_ns;
    psd_buf_unref(&bytes);
    psd_buf_unref(&own);
    return copy;
}

void sim_cut_link(sim_t *self, uint32_t from, uint32_t to, uint64_t until_ms, bool holds)
{
    sim_link_t *link = &self->link[from][to];
    if (until_ms > link->cut_until_ms)
        *link = (sim_link_t){ .cut_until_ms = until_ms, .holds = holds };
    sim_note_fault(self, until_ms);
}

/* The event of the receiver of an action's message; `*process` is the receiver. */
static event_t addressed(const sim_t *self, uint32_t from, const psd_action_t *a, uint32_t *process)
{
    event_t e = { .kind = TO_SERVER };
    if (from >= SIM_MAX_SERVERS) {
        e.target = (uint32_t)(a->to - PSD_PEER_SERVER);
        e.from = sim_worker_peer(from - SIM_MAX_SERVERS, self->worker[from - SIM_MAX_SERVERS].life);
    } else if (a->to == PSD_PEER_COORDINATOR) {
        e.from = sim_server_peer(self, from);
    } else {
        e.target = index_in(a->to);
        e.life = life_in(a->to);
        e.from = a->to & 1 ? PSD_PEER_COORDINATOR : PSD_PEER_SERVER + from;
        e.kind = a->to & 1 ? TO_SERVER : TO_WORKER;
    }
    *process = e.kind == TO_SERVER ? e.target : SIM_MAX_SERVERS + e.target;
    return e;
}

bool sim_is_leaders(psd_kind_t kind)
{
    const bool is_sign = kind == PSD_MSG_HEARTBEAT || kind == PSD_MSG_SHARD_HELLO || kind == PSD_MSG_SHARD_WELCOME;
    return !is_sign && ((psd_kind_receiver(kind) & PSD_TO_COORDINATOR) || psd_kind_sender(kind) == PSD_FROM_COORDINATOR);
}

void sim_send(sim_t *self, uint32_t process, const psd_action_t *a)
{
    uint32_t to, copies = 1 + sim_strikes(self, SIM_REPEAT);
    event_t e = addressed(self, process, a, &to);
    self->result->leader_messages += !process && sim_is_leaders(a->msg.kind);
    const sim_link_t *link = &self->link[process][to];
    const bool cut = self->now_ms < link->cut_until_ms;
    if (sim_strikes(self, SIM_LOSE) || (cut && !link->holds))
        copies = 0;
    for (uint32_t i = 0; i < copies; i++) {
        e.at_ms = (cut ? link->cut_until_ms : self->now_ms) + sim_delay(self);
        e.msg = over_the_wire(self, a, process, to, &e.payload);
        sim_schedule(self, e);
    }
}
