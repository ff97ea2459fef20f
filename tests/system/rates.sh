#!/usr/bin/env bash
# rates.sh BIN SOURCE - the learning rate of each step, as metrics.jsonl has it: a schedule that counts samples gives 1, 2 and 4 workers
# the same curve, on any number of servers, and in asp each push has the rate of its step.
set -euo pipefail
bin=$1
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"

fail() {
    echo "rates: $*" >&2
    exit 1
}

job=(--data-train=glyphs:1200 --data-batch=120 --model-kind=softmax "--model-layers=784,10" --eval-every=0 --stop-steps=40
    --status-listen=none --progress=none --save=none --metrics-also=none)

# "step rate" of each line of these files.
curve() { sed -n 's/.*"step": \([0-9]*\),.*"lr": \([^,}]*\).*/\1 \2/p' "$@"; }

# follows LINES STEPS WARMUP BASE WIDTH: as many lines "step rate" are cosine(steps=STEPS, warmup=WARMUP) of BASE, by WIDTH a step.
follows() {
    awk -v lines="$1" -v steps="$2" -v warmup="$3" -v base="$4" -v width="$5" '
        function rate(s) {
            return s < warmup ? base * s / warmup : s - warmup > steps ? 0 : base * (1 + cos(pi * (s - warmup) / steps)) / 2
        }
        BEGIN { pi = atan2(0, -1) }
        { off = $2 - rate((NR - 1) * width) }
        $1 != NR || off > 1e-12 * base || off < -1e-12 * base { print "line " NR ": " $0 ", not " rate((NR - 1) * width); wrong = 1 }
        END { if (NR != lines) { print NR " lines"; wrong = 1 } exit wrong }'
}

for shape in '1 1' '2 1' '2 3' '4 2'; do
    read -r workers servers <<<"$shape"
    "$bin/psdctl" run "${job[@]}" --workers-min="$workers" --servers="$servers" '--optimizer=sgd(lr=0.3)' \
        '--schedule=cosine(steps=3000, warmup=1200)' --schedule-unit=sample --run-dir="run-$workers-$servers" >said 2>&1 || fail "$shape: $(cat said)"
    for ((w = 0; w < workers; w++)); do
        metrics=run-$workers-$servers/metrics$([ $w -eq 0 ] || echo "-$w").jsonl
        curve "$metrics" >seen
        follows 40 3000 1200 0.3 120 <seen >wrong || fail "$shape: worker $w: $(cat wrong)"
        cmp seen <(curve run-1-1/metrics.jsonl) || fail "$shape: worker $w has another curve than a worker alone"
    done
done

# In asp each push is a step: in the order of the samples that the server has counted, the two workers' pushes are the whole curve.
"$bin/psdctl" run "${job[@]}" --workers-min=2 '--optimizer=sgd(lr=0.3)' --sync-mode=asp --sync-lr-rule=none \
    '--schedule=cosine(steps=60, warmup=10)' --run-dir=asp >said 2>&1 || fail "asp: $(cat said)"
sed -n 's/.*"samples": \([0-9]*\), "train.*"lr": \([^,}]*\).*/\1 \2/p' asp/metrics.jsonl asp/metrics-1.jsonl | sort -n |
    awk '{ print NR, $2 }' >curve
follows 80 60 10 0.3 1 <curve >wrong || fail "asp: $(cat wrong)"
echo 'rates: ok'
