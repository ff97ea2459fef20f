#!/usr/bin/env bash
# verify.sh BIN SOURCE - psdctl verify finds a cluster's weights to be those of one process, through the death of a server
# too, and names the first step and tensor where they are not.
set -euo pipefail
bin=$1
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"

fail() {
    echo "verify: $*" >&2
    cat out >&2
    exit 1
}

job=(--data-train=glyphs:1200 --data-test=glyphs:100 --data-batch=240 "--model-layers=784,16,10" --servers=2 --workers-min=2
    --stop-steps=24 --eval-every=0 --status-listen=none --lease=500ms "--optimizer=lookahead(adam(lr=0.002),k=5)")

"$bin/psdctl" verify "${job[@]}" --run-dir=plain >out 2>&1 || fail "ended with $?"
grep -q '^steps 1 to 24, 4 tensors, 2 workers, 2 servers: 192 hashes, all equal to those of one process$' out || fail 'it does not report equal hashes'

FAILPOINT=srv.send.WEIGHTS:kill@20 FAILPOINT_ONCE=$dir/fired "$bin/psdctl" verify "${job[@]}" --run-dir=killed \
    --checkpoint-dir=ck --checkpoint-every-steps=4 >out 2>&1 || fail "with a server killed: ended with $?"
grep -q 'all equal to those of one process$' out || fail 'with a server killed: it does not report equal hashes'
[ -e fired ] || fail 'no server was killed'

"$bin/psdctl" verify "${job[@]}" --run-dir=clipped --clip-norm=0.3 --clip-value=0.01 "--optimizer=lookahead(lamb(lr=0.002),k=2)" \
    >out 2>&1 || fail "clipped: ended with $?"
grep -q 'all equal to those of one process$' out || fail 'clipped: it does not report equal hashes'

# Tensors that are stepped whole, and whose state is shorter than they are, come back from the checkpoint of a dead server too.
rm -rf ck "$dir/fired"
FAILPOINT=srv.send.WEIGHTS:kill@20 FAILPOINT_ONCE=$dir/fired "$bin/psdctl" verify "${job[@]}" --run-dir=whole --checkpoint-dir=ck \
    --checkpoint-every-steps=4 --clip-norm=0.3 "--optimizer=lookahead(adafactor(lr=0.02),k=3)" >out 2>&1 || fail "whole: ended with $?"
grep -q 'all equal to those of one process$' out || fail 'whole: it does not report equal hashes'
[ -e fired ] || fail 'whole: no server was killed'
"$bin/psdctl" verify "${job[@]}" --run-dir=matrices "--optimizer=muon(weight_decay=0.1)" --groups="fc1.*(optimizer=adafactor)" \
    >out 2>&1 || fail "matrices: ended with $?"
grep -q 'all equal to those of one process$' out || fail 'matrices: it does not report equal hashes'

# A schedule goes on where it was after a death, in whatever it counts; onecycle moves the momentum too.
for schedule in 'cosine(steps=24, warmup=4, min=1e-4) step' 'wsd(stable=1, decay=3.5, shape=cosine) epoch' \
    'onecycle(steps=5760) sample' 'multistep(milestones=3/7/20) step'; do
    rm -rf ck "$dir/fired"
    FAILPOINT=srv.send.WEIGHTS:kill@20 FAILPOINT_ONCE=$dir/fired "$bin/psdctl" verify "${job[@]}" --run-dir=scheduled \
        --checkpoint-dir=ck --checkpoint-every-steps=4 "--schedule=${schedule% *}" "--schedule-unit=${schedule##* }" >out 2>&1 ||
        fail "$schedule: ended with $?"
    grep -q 'all equal to those of one process$' out || fail "$schedule: it does not report equal hashes"
    [ -e "$dir/fired" ] || fail "$schedule: nobody died"
    sha=$(sed -n 's/.*"sha256": "\([0-9a-f]*\)".*/\1/p' scheduled/summary.json)
    [ "$sha" != "${before-}" ] || fail "$schedule: it changes nothing"
    before=$sha
    rm -r scheduled
done

# Servers skip a round whose gradient has Inf or NaN, and so does the one process.
{
    echo a,b,y
    for ((i = 0; i < 60; i++)); do echo "$((i % 7)).5,$([ $i = 25 ] && echo 3e38 || echo "$((i % 5))"),$((i % 3))"; done
} >few.csv
for more in --sync-accumulate=1 --sync-accumulate=2 --codec-push=int8 "--optimizer=lookahead(adam(lr=0.002),k=2)"; do
    "$bin/psdctl" verify --data-train=csv:few.csv --model-kind=linear --data-shuffle=false --data-batch=10 --workers-min=2 --servers=2 \
        --stop-steps=12 --stop-epochs=0 --status-listen=none --run-dir=skipped "--optimizer=sgd(lr=0.01)" "$more" >out 2>&1 || fail "skipped, $more: ended with $?"
    grep -q 'all equal to those of one process$' out || fail "skipped, $more: it does not report equal hashes"
    grep -q '"skipped": [1-9]' skipped/summary.json || fail "$more: no round was skipped"
    rm -r skipped
done

# Workers that start from other weights than they are told.
mkdir other
cp "$bin/psdctl" "$bin/psd" other
printf '#!/bin/sh\nexec %s/psd-worker "$@" --seed=9\n' "$bin" >other/psd-worker
chmod +x other/psd-worker
rc=0
other/psdctl verify "${job[@]}" --run-dir=wrong >out 2>&1 || rc=$?
[ "$rc" -eq 1 ] || fail "other weights: ended with $rc"
grep -q '^psdctl verify: step 1, tensor fc1.weight: the cluster has [0-9a-f]\{16\}, one process [0-9a-f]\{16\}$' out ||
    fail 'other weights: it does not name the tensor and both hashes'

rc=0
"$bin/psdctl" verify "${job[@]}" --sync-mode=asp >out 2>&1 || rc=$?
[ "$rc" -eq 78 ] || fail "asp: ended with $rc"
echo 'verified'
