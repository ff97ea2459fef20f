#!/usr/bin/env bash
# prodigy.sh BIN SOURCE - prodigy with its defaults does at least as well as adam at the best of nine learning rates, less half a point of
# accuracy.
set -euo pipefail
bin=$1
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"

accuracy() {
    "$bin/psdctl" run --model-kind=mlp "--model-layers=784,32,10" --data-train=glyphs:6000 --data-test=glyphs:4000 --data-batch=64 \
        --stop-epochs=5 --eval-every=5 --workers-min=1 --progress=none --status-listen=none --save=none --optimizer="$1" \
        --run-dir="$1" >said 2>&1 || { cat said >&2; exit 1; }
    sed -n 's/.*"last_metric": \([0-9.]*\).*/\1/p' "$1/summary.json"
}

own=$(accuracy prodigy)
best=0
for rate in 1e-5 3e-5 1e-4 3e-4 1e-3 3e-3 1e-2 3e-2 1e-1; do
    best=$(echo "$best $(accuracy "adam(lr=$rate)")" | awk '{ print ($1 > $2 ? $1 : $2) }')
done
awk -v own="$own" -v best="$best" 'BEGIN { exit !(best > 0.8 && own >= best - 0.005) }' ||
    { echo "prodigy: $own, adam at its best rate $best" >&2; exit 1; }
echo "prodigy: $own, adam at its best rate $best"
