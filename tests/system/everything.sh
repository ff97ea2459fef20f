#!/usr/bin/env bash
# everything.sh BIN SOURCE - schedule, clipping, accumulation, reduction, groups of several rules, a mask and Lookahead in one job: killed,
# and resumed on other numbers of servers, it ends with the bits of an undisturbed run, and psdctl verify repeats it in one process.
set -euo pipefail
bin=$1
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"

fail() {
    echo "everything: $*" >&2
    [ ! -e out ] || cat out >&2
    exit 1
}

job=(--data-train=glyphs:1200 --data-test=glyphs:100 --data-batch=120 --data-validation=0.1 "--model-layers=784,16,12,10" --workers-min=2
    --eval-every=1 --status-listen=none --progress=none --lease=500ms --health-every=2
    "--optimizer=lookahead(cautious(adamw(lr=0.003, weight_decay=0.1)),k=5)"
    "--schedule=cosine(steps=4000, warmup=1500, min=1e-5)" --schedule-unit=sample --clip-norm=0.5 --clip-value=0.05 --sync-accumulate=3
    --sync-reduce=mean_workers
    "--groups=fc3.bias(freeze=true); *.bias(weight_decay=0); fc1.*(optimizer=adagrad(lr=0.02), lr_mult=0.5, clip=false); fc2.weight(optimizer=muon(lr=0.01), lookahead=false)")
sha() { sed -n 's/.*"sha256": "\([0-9a-f]*\)".*/\1/p' "$1/summary.json"; }

"$bin/psdctl" verify "${job[@]}" --servers=2 --stop-steps=36 --run-dir=whole >out 2>&1 || fail "undisturbed: ended with $?"
grep -q '^rounds 1 to 108, 6 tensors, 2 workers, 2 servers: 1296 hashes, all equal to those of one process$' out || fail 'it does not report equal hashes'

# A server dies in each run, and each run has another number of servers.
for turn in '2 12' '3 24' '1 36'; do
    read -r servers steps <<<"$turn"
    rm -f "$dir/fired"
    FAILPOINT=srv.send.WEIGHTS:kill@30 FAILPOINT_ONCE=$dir/fired "$bin/psdctl" run "${job[@]}" --servers="$servers" --stop-steps="$steps" \
        --checkpoint-dir=ck --checkpoint-every-steps=9 --run-dir="to-$steps" >out 2>&1 || fail "to step $steps on $servers servers: ended with $?"
    [ -e "$dir/fired" ] || fail "to step $steps: nobody died"
done
[ "$(sha to-36)" = "$(sha whole)" ] || fail "the weights are $(sha to-36), undisturbed $(sha whole)"
grep -q 'id=optimizer.group match=\*.bias optimizer="lookahead(cautious(adamw(lr=0.003, .* weight_decay=0, amsgrad=0), caution_min=0.001), k=5, alpha=0.5, pullback=none)" lr_mult=1 clip=on frozen=no' \
    whole/logs/server-0.log || fail "the log has another rule of the group: $(grep optimizer.group whole/logs/server-0.log)"
grep -q '"steps": 36' to-36/summary.json || fail 'it has other steps'
echo 'everything: ok'
