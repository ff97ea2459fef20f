#!/usr/bin/env bash
# planted.sh - whether the simulator finds bugs: it plants one bug at a time in a copy of the sources, psd-sim
# built, and run over 2,000 seeds. There is one for each promise, so none of them is a check that cannot fail. Says at which
# seed each was found; ends with 1 when one was not, or could not be planted.
# With --dry it only looks whether each can still be planted, which takes no time.
# Usage: planted.sh [--dry] [SOURCES]
set -euo pipefail
dry=
[ "${1:-}" != --dry ] || { dry=1 && shift; }
sources=$(readlink -f "${1:-$(dirname "$(readlink -f "$0")")/../..}")
seeds=2000
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
missed=0

build() {
    cmake --build "$copy/build" --target psd-sim >"$copy/log" 2>&1 || {
        tail -n 20 "$copy/log" >&2
        echo "planted.sh: psd-sim does not build" >&2
        exit 1
    }
}

# WHAT FILE SED: with the bug that the sed script makes of FILE.
plant() {
    local said
    [ ! "$dry" ] || mkdir -p "$copy/${2%/*}"
    sed -E "$3" "$sources/$2" >"$copy/$2"
    if cmp -s "$copy/$2" "$sources/$2"; then
        echo "$1: cannot be planted, $2 has no such line" && missed=1
        return
    fi
    [ ! "$dry" ] || return 0
    build
    if said=$("$copy/build/bin/psd-sim" --seeds $seeds 2>&1); then
        echo "$1: not found in $seeds seeds" && missed=1
    else
        echo "$1: $(grep -m1 '^seed ' <<<"$said" || echo 'found, and no seed was named')"
        grep -q '^seed ' <<<"$said" || missed=1
    fi
    cp "$sources/$2" "$copy/$2"
}

if [ ! "$dry" ]; then
    tar -C "$sources" -cf - CMakeLists.txt common proto server worker deploy tests | tar -C "$copy" -xf -
    cmake -S "$copy" -B "$copy/build" -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo >"$copy/log" 2>&1
    build
    "$copy/build/bin/psd-sim" --seeds $seeds >"$copy/log" || {
        cat "$copy/log"
        echo "planted.sh: psd-sim finds something before any bug is planted" >&2
        exit 1
    }
fi

plant "commit: a push counts as soon as one shard holds it" server/core/membership.c \
    's/return row->complete.n == n_shards;/return row->complete.n \&\& n_shards;/'
plant "commit: a shard leaves out whose push it sees last" server/core/engine.c \
    's/(k < round->n_contributors)(; k\+\+\) \{)/\1 - (round->n_contributors > 1 \&\& self->index == 1)\2/'
plant "schedule: it counts rounds, also those that made no step" server/core/engine.c \
    's/(psd_schedule_progress\(&self->config.schedule, self->)version/\1clock/'
plant "dedup: a chunk that comes twice is counted twice" server/core/inbox.c \
    's/return self->complete \|\| psd_bitmap_get\(self->have, part\);/return self->complete \&\& part < self->n_parts;/'
plant "dedup: a push of the clock that was closed last is taken again" server/core/engine.c \
    's/msg->clock <= w->applied\)/msg->clock < w->applied)/'
plant "manifest: written when one shard's file is durable" server/core/saves.c \
    's/if \(!are_all\(self, &self->saved_by\)\)/if (!self->saved_by.n)/'
plant "rename: the file is not flushed before" common/system/durable.c \
    's/why = fdatasync\(self->fd\) \? errno : 0;/why = 0;/'
plant "rename: the directory is not flushed" common/system/durable.c 's/if \(fsync\(self->dir\)\)/if (self->dir < 0)/'
plant "run: every other run has the number of the first" server/core/coordinator.c \
    's/self->config.job_id = psd_splitmix64\(&seed\) \| 1;/self->config.job_id = seed ^ 4;/'
plant "incarnation: each life is the first" server/core/membership.c \
    's/\.incarnation = row->incarnation \+ 1,/.incarnation = 1,/'
plant "fence: a push is refused as a zombie's, and counts" server/core/engine.c \
    's/^    double norm2;$/    if (in->msg->clock == 2)\n        fence(self, in->from, in->msg, in->out);\n&/'
plant "rounds: a shard counts two for one" server/core/engine.c \
    's/^    self->clock = round->clock;/    self->clock = round->clock + (round->clock == 2 \&\& self->index == 1);/'
plant "memory: what was parked is not let go" server/core/inbox.c \
    's/psd_buf_unref\(&self->parked\[p\]\);/self->parked[p] = NULL;/'
plant "start: what is inherited is not waited for" server/core/seeding.c \
    's/self->is_over = self->array == /self->is_over = self->array <= /'
plant "start: a server that has begun with inherited state forgets its counts" server/core/shard.c \
    's/^        if \(updates_of\(self, c\)\)$/        if (updates_of(self, c) > 9)/'
plant "follower: a shard gives another snapshot than it was asked for" server/core/engine.c \
    's/(psd_snapshot_read\(\&self->snapshot, in->now_ms, )msg->clock/\1self->snapshot.number/; s/msg->clock > self->snapshot.number\)$/msg->clock > self->snapshot.number + 9999)/'
plant "save: a chunk is stepped before it is written" server/core/saver.c \
    's/work->preserve = work->part >= self->next/work->preserve = false/'
plant "save: in asp a shard saves before all have held pushes" server/core/coordinator.c \
    's/return psd_journal_is_done_by_all\(&self->journal\);/return true;/'
plant "restore: updates that were made are not counted" server/checkpoint/shardfile.c \
    's/state->t = /state->t = 1 + /'
plant "waiting: for workers, and nobody says so" server/core/coordinator.c \
    's/^( *)describe_absent\(self, text, n\);/\1text[0] = 0;/'
plant "liveness: what was lost of the log is not repeated" server/core/journal.c \
    's/now_ms < self->shard\[shard\].sent_ms \+ PSD_JOURNAL_REPEAT_MS/now_ms >= self->shard[shard].sent_ms/'
plant "passes: a chunk counts twice when another shard has told first" server/core/totals.c \
    's/psd_server_set_add\(&self->told, shard\);/&\n    if (self->told.n == 1 \&\& shard == 1 \&\& self->map.n_held[1])\n        self->sum[self->map.held[1][0] * n_sums] *= 2;/'
plant "fold: a round is decided otherwise than expected, and is not announced" server/core/coordinator.c \
    's/if \(round.apply \&\& self->forecast.kind/if (false/'
plant "fold: sums of a round that is announced to be another are kept" server/core/engine.c \
    's/^    if \(self->n_folded\)$/    if (self->n_folded > 99)/'
plant "fold: what cannot be taken apart is not asked for again" server/core/engine.c \
    's/^        psd_applied_drop_open\(&self->applied, w\);$/        w->inbox.folded = false;/'
plant "ahead: a step that is adopted leaves its counters behind" server/core/shard.c \
    's/^        self->slice\[p->first \+ i\]\.state = self->slice\[p->first \+ i\]\.ahead;$/        (void)self;/'
plant "ahead: a worker keeps weights that did not count" worker/session.c \
    's/if \(self->server\[s\]\.is_ahead \|\| /if (/'
plant "ahead: parts are stepped beside a checkpoint that has not read them" server/core/engine.c \
    's/if \(self->saver\.saving \|\| waits/if (waits/; s/!self->saver\.saving && //'
plant "codec: a part that is asked for again is encoded again" worker/feedback.c \
    's/^    if \(!part->is_coded\)$/    psd_buf_unref(\&part->code.payload);/'
plant "codec: what is not finite takes the residual with it" worker/feedback.c \
    's/^    return self->is_finite;$/    return self->is_finite || !memset(self->part[0][0].kept, 0, sizeof(float) * self->map->part[0][0].n);/'
plant "residual: a checkpoint gets that of the exchange which is open" worker/feedback.c \
    's/(from = part->is_changed \&\& !with_open) \?/\1 \&\& !self ?/'
plant "residual: what a worker had saved is given to it again when it has pushed" server/core/applied.c \
    's/^    row->has_saved = false;$/    (void)0;/'
plant "residual: what a checkpoint had is not taken" worker/feedback.c \
    's/^(    memcpy\(self->part\[s\]\[p\]\.kept, kept, ).*$/\10);/'
exit $missed
