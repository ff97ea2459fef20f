#!/usr/bin/env bash
# starved.sh BIN SOURCE - each allocation of a program that reads its options fails in turn: the program ends with 71, for which
# psdctl restarts it, and never blames the options.
set -euo pipefail
bin=$1
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
fail() { echo "starved: $*"; exit 1; }
# Job files with one mistake each, which is found last: a complaint about anything else is wrong.
seq 0 199 | awk '{ print ($1 * 7) % 11 / 11 "," $1 % 2 }' >"$dir/table.csv"
cat >"$dir/psd.yaml" <<'END'
job: starved
servers: 2
server.index: 2
optimizer: "lookahead(adamw(lr=1e-3, weight_decay=0.01), k=5)"
schedule: "cosine(steps=100, warmup=10)"
groups: [{match: "*.bias", weight_decay: 0}]
END
cat >"$dir/psd-worker.yaml" <<'END'
model: {kind: mlp, layers: [1, 32, 7]}
data: {train: "csv:table.csv", test: "csv:table.csv", header: false, batch: 64, validation: 0.1}
eval: {metric: accuracy}
stop: {steps: 20}
END
declare -A mistake=(
    [psd]="$dir/psd.yaml:3:15: server.index is 2 of 2 servers, which count from 0; set servers, or 0 to 1"
    [psd-worker]="psd-worker: $dir/psd-worker.yaml:1:28: model.layers ends with 7, but the training set asks for 2 outputs"
)
export PSD_LEASE=9s PSD_JOIN=tcp://127.0.0.1:9 ALLOC_FAULT_ONCE=$dir/once
for program in psd psd-worker; do
    starved=0 at=0
    while :; do
        at=$((at + 1))
        touch "$dir/once"
        rc=0
        ALLOC_FAULT_IN=$program LD_PRELOAD=$bin/libpsd-alloc-fault.so ALLOC_FAULT_AT=$at \
            "$bin/$program" --log-level=error "$dir/$program.yaml" >"$dir/said" 2>&1 || rc=$?
        case $rc in
        71) starved=$((starved + 1)) ;;
        78) [ "$(cat "$dir/said")" = "${mistake[$program]}" ] || fail "allocation $at of $program: $(cat "$dir/said")" ;;
        *) fail "allocation $at ended $program with $rc: $(cat "$dir/said")" ;;
        esac
        [ ! -e "$dir/once" ] || break
    done
    [ "$starved" -ge 300 ] || fail "only $starved of $((at - 1)) allocations ended $program"
    echo "starved: $starved of $((at - 1)) allocations ended $program, each with 71"
done
