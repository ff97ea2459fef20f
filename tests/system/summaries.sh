#!/usr/bin/env bash
# summaries.sh BIN SOURCE - what psdctl run prints at the end, and keeps as summary.json, is true when worker 0 was killed.
set -euo pipefail
bin=$1
dir=$(mktemp -d)
cd "$dir"
trap 'kill "${job-}" 2>/dev/null || true; wait; rm -rf "$dir"' EXIT

fail() {
    echo "summaries: $*" >&2
    exit 1
}

# Start a job that goes on without those it loses, as $job, in directory $1; wait until worker 0 has trained for a while.
begin() {
    "$bin/psdctl" run --model-kind=softmax --data-train=glyphs:500 --data-test=glyphs:100 --workers-min=1 --workers-want=2 \
        --workers-lost=drop --lease=1s --progress=none "--run-dir=$1" "${@:2}" >"$1.said" 2>&1 &
    job=$!
    for ((i = 0; i < 1200; i++)); do
        [ "$(wc -l 2>/dev/null <"$1/metrics.jsonl")" -le 20 ] 2>/dev/null || [ ! -s "$1/metrics.jsonl" ] || break
        sleep 0.05
    done
    worker=$(pgrep -f "psd-worker .*--run-dir=$1 .*--worker-id=0|psd-worker .*--worker-id=0 .*--run-dir=$1( |\$)" | head -n 1)
    [ -n "$worker" ] || fail "there is no worker 0: $(cat "$1.said")"
}

field() { sed -n "s/^  \"$2\": \"\{0,1\}\([^\",]*\)\"\{0,1\},\{0,1\}\$/\1/p" "$1"; }

# In asp nobody waits for the lost worker: the other must still have work when that is given up.
for mode in bsp asp; do
    steps=6000
    [ $mode = bsp ] || steps=60000
    begin "drop-$mode" "--sync-mode=$mode" --stop-steps=$steps "--save=drop-$mode.st"
    kill -9 "$worker"
    wait "$job" || fail "$mode: psdctl run failed: $(cat "drop-$mode.said")"
    grep -q '^  worker  *1, whose summary this is$' "drop-$mode.said" || fail "$mode: $(cat "drop-$mode.said")"
    grep -q "^  steps  *$steps\$" "drop-$mode.said" || fail "$mode: $(cat "drop-$mode.said")"
    [ "$(field "drop-$mode/summary.json" outcome)/$(field "drop-$mode/summary.json" worker)" = done/1 ] ||
        fail "$mode: $(cat "drop-$mode/summary.json")"
    [ "$(field "drop-$mode/summary-0.json" outcome)" = killed ] || fail "$mode: $(cat "drop-$mode/summary-0.json")"
    [ "$(field "drop-$mode/summary-0.json" steps)" -gt 0 ] || fail "$mode: it had made steps: $(cat "drop-$mode/summary-0.json")"
    [ -s "drop-$mode.st" ] || fail "$mode: no model"
done

# All are killed: what is known of them stands in their metrics.
begin killed --stop-steps=0 --stop-epochs=1000000
kill -STOP "$worker" # it cannot end its round
kill -INT "$job"
for ((i = 0; i < 600; i++)); do
    ! grep -q 'press Ctrl-C again to stop at once' killed.said || break
    sleep 0.05
done
kill -INT "$job"
code=0
wait "$job" || code=$?
[ "$code" -eq 75 ] || fail "it ended with $code: $(cat killed.said)"
[ "$(field killed/summary.json outcome)" = killed ] || fail "$(cat killed/summary.json)"
step=$(tail -n 1 killed/metrics.jsonl | sed 's/.*"step": \([0-9]*\),.*/\1/')
grep -q "^  steps  *$step\$" killed.said || fail "it had made $step steps: $(cat killed.said)"
! grep -q '^  rounds' killed.said || fail "nobody knows: $(cat killed.said)"
