/* faults.c - the table of faults: which seeds have which faults, and the faults that occur over time rather than at a message, an
 * event or a file. */
#include "tests/sim/sim_state.h"

enum {
    EVERY_MS = 100,
    LAST_MS = 20000,
    MOST_CRASHES = 10,
    MOST_KILLS = 40,
    MOST_POWER_CUTS = 3,
    SERVER_SLEEPS_MS = 12000,
    DISK_FAILS_MS = 5000 /* of the end of a job */
};

typedef struct row {
    const char *name, *words;
    double share, most;
} row_t;

static const row_t rows[] = {
#define X(name, words, share, most) [SIM_##name] = { #name, words, share, most },
    SIM_FAULTS(X)
#undef X
};

const char *sim_fault_words(sim_fault_t fault) { return rows[fault].words; }
const char *sim_fault_name(sim_fault_t fault) { return rows[fault].name; }

/* ---- selection by seed ---- */

sim_config_t sim_config_of_seed(uint64_t seed)
{
    static const char *const rules[] = { "sgd(lr=0.1)",
                                         "momentum(lr=0.05)",
                                         "adam(lr=0.01)",
                                         "radam(lr=0.01)",
                                         "lookahead(radam(lr=0.01), k=3)",
                                         "lion(lr=0.01)",
                                         "adagrad",
                                         "nadam",
                                         "lookahead(momentum(lr=0.1), k=2, pullback=pullback)",
                                         "adadelta",
                                         "lamb(lr=0.01)",
                                         "lookahead(lamb(lr=0.01), k=2)" };
    /* Drawn after the others, so that earlier seeds keep their meaning. */
    static const char *const more[] = {
        "sfadamw(lr=0.01)", "prodigy(d0=1e-3)", "lars", "cautious(adamw(lr=0.01))", "lookahead(cautious(momentum(lr=0.05)), k=3)",
        "adopt(lr=0.01)",   "ademamix"
    };
    uint64_t s = seed * 0x9E3779B97F4A7C15u;
    sim_config_t config = {
        .seed = seed,
        .servers = 1 + (uint32_t)(psd_splitmix64(&s) % 4),
        .workers = 1 + (uint32_t)(psd_splitmix64(&s) % 5),
        .mode = psd_splitmix64(&s) % 4 ? "bsp" : "asp",
        .rule = rules[psd_splitmix64(&s) % (sizeof rules / sizeof *rules)],
        .rounds = 2 + (uint32_t)(psd_splitmix64(&s) % 10),
        .tensors = 1 + (uint32_t)(psd_splitmix64(&s) % 6),
        .kill_worker = -1,
    };
    config.chance[SIM_LOSE] = psd_splitmix64(&s) % 2 ? 0 : 0.15 * psd_uniform(&s);
    config.chance[SIM_REPEAT] = psd_splitmix64(&s) % 2 ? 0 : 0.3 * psd_uniform(&s);
    config.delay_ms = (uint32_t)(psd_splitmix64(&s) % 60);
    config.nonfinite_clock = psd_splitmix64(&s) % 5 ? 0 : 2;
    config.chance[SIM_KILL_WORKER] = psd_splitmix64(&s) % 3 ? 0 : 0.01 * psd_uniform(&s);
    if (!(psd_splitmix64(&s) % 3) && config.mode[0] == 'b') {
        config.save_every = 1 + (uint32_t)(psd_splitmix64(&s) % 4);
        config.all_must_stay = true;
        config.chance[SIM_KILL_SERVER] = 0.004 * psd_uniform(&s);
        config.chance[SIM_FAIL_FLUSH] = psd_splitmix64(&s) % 3 ? 0 : 0.2 * psd_uniform(&s);
    } else if (config.workers > 1 && !(psd_splitmix64(&s) % 4)) {
        config.late_worker_ms = 1 + (uint32_t)(psd_splitmix64(&s) % 3000);
    }
    /* A measurement of the whole model, which needs every shard's part, needs rounds. */
    if (config.mode[0] == 'b' && !(psd_splitmix64(&s) % 3)) {
        config.clip_norm = psd_splitmix64(&s) % 2 ? 0.5 * psd_uniform(&s) : 0;
        config.clip_value = psd_splitmix64(&s) % 2 ? 0.1 * psd_uniform(&s) : 0;
    }
    uint64_t fifth = seed ^ 0xAD097;
    if (psd_splitmix64(&fifth) % 3 == 0)
        config.rule = more[psd_splitmix64(&fifth) % (sizeof more / sizeof *more)];
    static const char *const whole[] = { "adafactor(lr=0.05)", "lookahead(adafactor(lr=0.1, weight_decay=0.1), k=2)",
                                         "muon(weight_decay=0.1)", "lookahead(muon(lr=0.05), k=3, pullback=pullback)" };
    uint64_t sixth = seed ^ 0xFAC70;
    if (psd_splitmix64(&sixth) % 5 == 0)
        config.rule = whole[psd_splitmix64(&sixth) % (sizeof whole / sizeof *whole)];
    static const char *const of_rounds[] = { "lamb", "lars", "prodigy", "cautious", "adafactor", "muon" };
    for (size_t i = 0; config.mode[0] == 'a' && i < sizeof of_rounds / sizeof *of_rounds; i++)
        if (strstr(config.rule, of_rounds[i]))
            config.rule = rules[0];
    static const uint32_t sizes[] = { 1, 1500, 0 }; /* a message per chunk, per several chunks, or for all */
    uint64_t other = seed ^ 0x9A275;
    config.part_elements = sizes[psd_splitmix64(&other) % 3];
    static const char *const codecs[] = { "bf16", "int8", "topk(0.1)", "sign" };
    const uint64_t push = psd_splitmix64(&other) % 8, pull = psd_splitmix64(&other) % 6;
    if (push < 4)
        config.push = codecs[push];
    if (pull < 2)
        config.pull = codecs[pull];
    uint64_t seventh = seed ^ 0x1F7E2;
    config.inherits = psd_splitmix64(&seventh) % 5 == 0;
    config.follows = psd_splitmix64(&seventh) % 4 == 0;
    uint64_t fourth = seed ^ 0x2E51D;
    config.saves_residuals = psd_splitmix64(&fourth) % 4;
    /* Votes are counted per round, and topk would drop most of them. */
    if (config.mode[0] == 'b' && psd_splitmix64(&fourth) % 8 == 0 && push != 2) {
        config.rule = "dlion(lr=0.01)";
        config.clip_norm = config.clip_value = 0;
    }
    /* In asp, after a restart all shards continue from server 0's count. */
    static const char *const schedules[] = { "cosine(steps=7, warmup=2)", "exponential(gamma=0.7)", "wsd(stable=2, decay=3.5)",
                                             "step(step_size=2)" };
    uint64_t third = seed ^ 0x5C4ED;
    if (config.mode[0] == 'b' && psd_splitmix64(&third) % 3 == 0) {
        config.schedule = schedules[psd_splitmix64(&third) % 4];
        config.unit = psd_splitmix64(&third) % 2 ? PSD_UNIT_EPOCH : PSD_UNIT_STEP;
    }
    /* The tensors are t0, t1, ... and there is at least the first. */
    static const char *const groups[] = { "t0(lr_mult=0.5, clip=0)", "t0(freeze=1)", "*(optimizer=adam(lr=0.02))",
                                          "t0(optimizer=lookahead(adamw(lr=0.03), k=2)); t1*(lr=0.02); *(lookahead=0)",
                                          "t0(optimizer=lamb(lr=0.02), lr_mult=0.25)" };
    uint64_t grouping = seed ^ 0x6409;
    const uint64_t group = psd_splitmix64(&grouping) % 15;
    if (group < (config.mode[0] == 'a' ? 3 : 5) && (group != 3 || config.tensors > 2) && (group != 1 || config.tensors > 1) &&
        (group < 2 || !strstr(config.rule, "dlion")) && (group % 3 || !strstr(config.rule, "prodigy")))
        config.groups = groups[group];
    config.reduce = psd_splitmix64(&grouping) % 4 ? PSD_REDUCE_MEAN_SAMPLES : 1 + psd_splitmix64(&grouping) % 2;
    if (config.mode[0] == 'b' && !strstr(config.rule, "dlion") && psd_splitmix64(&grouping) % 4 == 0)
        config.accumulate = 2 + (uint32_t)(psd_splitmix64(&grouping) % 2);
    uint64_t ninth = seed ^ 0x901A75;
    config.joins = psd_splitmix64(&ninth) % 2;
    if (config.joins && psd_splitmix64(&ninth) % 2)
        config.delay_ms = PSD_MEANS_HOLD_MS;
    config.goes_ahead = psd_splitmix64(&ninth) % 2;
    config.by_tensors = psd_splitmix64(&ninth) % 3 == 0;
    if (config.mode[0] == 'b') {
        config.fold_at = (uint32_t)(psd_splitmix64(&other) % 3);
        config.odd_every = (uint32_t)(psd_splitmix64(&other) % 3) ? 0 : 4 + (uint32_t)(psd_splitmix64(&other) % 3);
        config.rounds += 2; /* the first two determine what is expected of the others */
        if (config.nonfinite_clock)
            config.nonfinite_clock = 2 + (uint32_t)(psd_splitmix64(&other) % 5);
        if (config.goes_ahead && psd_splitmix64(&ninth) % 4) { /* many parts, none of which is summed up early */
            config.fold_at = config.accumulate = 0;
            config.part_elements = 1;
        }
    }
    uint64_t eighth = seed ^ 0x9A4A47;
    if (config.nonfinite_clock && psd_splitmix64(&eighth) % 2)
        config.quarantine_after = 1 + (uint32_t)(psd_splitmix64(&eighth) % 3);
    return config;
}

sim_config_t sim_config_of_scale(uint32_t workers, uint32_t servers, uint32_t rounds)
{
    sim_config_t config = { .seed = 1,
                            .servers = servers,
                            .workers = workers,
                            .mode = "bsp",
                            .rule = "adam(lr=0.01)",
                            .rounds = rounds,
                            .tensors = servers,
                            .most_elements = 64,
                            .batch = 4 * workers,
                            .fold_at = 3,
                            .delay_ms = 20,
                            .kill_worker = -1 };
    config.chance[SIM_STRAGGLE] = config.chance[SIM_DIE_COMPUTING] = 0.01;
    return config;
}

void sim_add_faults(sim_config_t *config)
{
    uint64_t s = config->seed ^ 0xFA017;
    /* Servers may also die while workers come and go: the remaining events are another legal run. */
    if (!config->save_every && psd_uniform(&s) < 0.3) {
        config->save_every = 1 + (uint32_t)(psd_splitmix64(&s) % 4);
        config->chance[SIM_KILL_SERVER] = 0.004 * psd_uniform(&s);
    }
    for (uint32_t f = 0; f < SIM_N_FAULTS; f++)
        if (psd_uniform(&s) < rows[f].share)
            config->chance[f] = rows[f].most * psd_uniform(&s);
}

/* ---- times ---- */

uint64_t sim_draw(sim_t *self, uint64_t n) { return psd_splitmix64(&self->random) % n; }

void sim_note_fault(sim_t *self, uint64_t until_ms)
{
    if (until_ms > self->last_fault_ms)
        self->last_fault_ms = until_ms;
}

/* If each push is a step, no worker waits for the first checkpoint; before it, the death of a server ends the job. */
static bool has_point(const sim_t *self)
{
    return self->config.save_every && (psd_mode_has_rounds(self->mode) || self->result->saves);
}

/* Jobs whose servers are killed have checkpoints, and the kills end at some time. Servers that have ended are not restarted, so
 * none is killed after that: the last weights are safe by then. A job gives up if its last checkpoint fails for 30 s, of which each
 * attempt may wait 10 s for the residuals of dead workers: the disk works again in time for a whole attempt. */
static bool is_allowed(const sim_t *self, sim_fault_t fault)
{
    const uint64_t *done = self->result->done;
    switch (fault) {
    case SIM_KILL_WORKER:
        return done[SIM_KILL_WORKER] < MOST_KILLS;
    case SIM_POWER_CUT:
        if (done[SIM_POWER_CUT] == MOST_POWER_CUTS)
            return false;
        /* fall through */
    case SIM_KILL_SERVER:
    case SIM_DIE_ACTING:
        return has_point(self) && done[SIM_KILL_SERVER] + done[SIM_DIE_ACTING] < MOST_CRASHES && !sim_any_finished(self);
    case SIM_FAIL_FLUSH:
    case SIM_NO_SPACE:
    case SIM_IO_ERROR:
        return !self->ending_ms || self->now_ms < self->ending_ms + DISK_FAILS_MS;
    case SIM_LIE:
        return self->lied || self->n_honest; /* a server to which the disk lied twice has no checkpoint left to go back to */
    default:
        return true;
    }
}

bool sim_strikes(sim_t *self, sim_fault_t fault)
{
    const double p = self->config.chance[fault];
    if (p <= 0 || !is_allowed(self, fault) || psd_uniform(&self->random) >= p)
        return false;
    self->result->done[fault]++;
    if (fault != SIM_LOSE && fault != SIM_REPEAT)
        sim_note_fault(self, self->now_ms);
    return true;
}

/* ---- faults over time ---- */

/* 10^0 .. 10^`decades` ms, with a uniform logarithm. */
static uint64_t some_time(sim_t *self, uint32_t decades)
{
    uint64_t ms = 1;
    for (uint64_t d = sim_draw(self, decades + 1); d > 0; d--)
        ms *= 10;
    return ms + sim_draw(self, 9 * ms);
}

/* Servers, workers and spare workers. */
static uint32_t n_processes(const sim_t *self) { return self->config.servers + sim_most_workers(self); }

static uint32_t process_at(const sim_t *self, uint32_t i)
{
    return i < self->config.servers ? i : SIM_MAX_SERVERS + i - self->config.servers;
}

/* A process of the job, running or not. */
static uint32_t some_process(sim_t *self)
{
    return process_at(self, (uint32_t)sim_draw(self, self->config.servers + self->config.workers));
}

static uint32_t some_worker(sim_t *self) { return (uint32_t)sim_draw(self, self->config.workers); }

static void cut_power(sim_t *self)
{
    for (uint32_t s = 0; s < self->config.servers; s++)
        if (self->server[s].node)
            sim_crash_server(self, s, 100 + sim_draw(self, 900));
    for (uint32_t w = 0; w < sim_most_workers(self); w++)
        if (self->worker[w].session)
            sim_kill_worker(self, w, 100 + sim_draw(self, 900));
    sim_lose_unflushed(self);
}

/* Cut some processes off from the others: one of them, or half of them. */
static void partition(sim_t *self)
{
    bool side[SIM_PROCESSES];
    const uint64_t until = self->now_ms + some_time(self, 3);
    const bool holds = sim_draw(self, 2);
    for (uint32_t i = 0; i < n_processes(self); i++)
        side[i] = sim_draw(self, 2);
    for (uint32_t a = 0; a < n_processes(self); a++)
        for (uint32_t b = 0; b < n_processes(self); b++)
            if (side[a] != side[b])
                sim_cut_link(self, process_at(self, a), process_at(self, b), until, holds);
}

static void cut_one_way(sim_t *self)
{
    const uint32_t from = some_process(self), to = some_process(self);
    const bool holds = sim_draw(self, 2); /* separate statements, because the compiler chooses the order of arguments */
    sim_cut_link(self, from, to, self->now_ms + some_time(self, 3), holds);
}

/* Stop links one by one, and release them in another order. */
static void swizzle(sim_t *self)
{
    const uint64_t stopped = some_time(self, 3), released = some_time(self, 3);
    for (uint64_t n = 1 + sim_draw(self, 12); n > 0; n--) {
        event_t cut = { .at_ms = self->now_ms + sim_draw(self, stopped), .kind = CUT_LINK };
        cut.target = some_process(self);
        cut.part = some_process(self);
        cut.until_ms = self->now_ms + stopped + sim_draw(self, released);
        sim_schedule(self, cut);
    }
}

void sim_pause(sim_t *self, uint32_t process, uint64_t until_ms)
{
    if (!sim_is_alive(self, process))
        return;
    sim_clock_of(self, process)->paused_until_ms = until_ms;
    sim_note_fault(self, until_ms);
}

/* A server sleeps for less than the 30 s that the end of a job waits for its last checkpoint, even by a fast clock, and including
 * the 10 s that a shard waits for the residual of a silent worker. */
static void pause_one(sim_t *self)
{
    const uint64_t ms = some_time(self, 4);
    const uint32_t process = some_process(self);
    sim_pause(self, process, self->now_ms + (process < SIM_MAX_SERVERS && ms > SERVER_SLEEPS_MS ? SERVER_SLEEPS_MS : ms));
}

/* Another process takes the place of a sleeping worker, which then wakes up. */
static void replace_sleeper(sim_t *self)
{
    const uint64_t ms = 1000 + some_time(self, 3);
    sim_pause(self, SIM_MAX_SERVERS + some_worker(self), self->now_ms + ms);
    for (uint32_t w = self->config.workers; w < sim_most_workers(self); w++)
        if (!self->worker[w].session) {
            sim_schedule(self, (event_t){ .at_ms = self->now_ms + sim_draw(self, ms), .kind = START_WORKER, .target = w });
            return;
        }
}

static void jump(sim_t *self)
{
    const uint32_t process = some_process(self);
    if (sim_is_alive(self, process))
        sim_clock_of(self, process)->offset_ms += some_time(self, 4);
}

static void (*const strike[SIM_N_FAULTS])(sim_t *self) = {
    [SIM_POWER_CUT] = cut_power, [SIM_PARTITION] = partition,    [SIM_ONE_WAY] = cut_one_way, [SIM_CLOG] = swizzle,
    [SIM_PAUSE] = pause_one,     [SIM_ZOMBIE] = replace_sleeper, [SIM_JUMP] = jump,
};

void sim_draw_faults(sim_t *self)
{
    for (uint32_t f = 0; f < SIM_N_FAULTS; f++)
        if (strike[f] && sim_strikes(self, (sim_fault_t)f))
            strike[f](self);
    if (self->now_ms < LAST_MS)
        sim_schedule(self, (event_t){ .at_ms = self->now_ms + EVERY_MS, .kind = FAULTS });
}
