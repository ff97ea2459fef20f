#!/usr/bin/env bash
# residuals.sh BIN - what workers keep of their gradients goes with checkpoints: a job whose servers are killed, or that is killed whole
# and started again on other servers, comes to the weights of an undisturbed one, for each codec and for votes. What a dead
# worker kept is lost, and said to be; and with codec.residual=reset all of it is, at a restart.
set -euo pipefail
bin=$1
dir=$(mktemp -d -p /dev/shm 2>/dev/null || mktemp -d) # checkpoints are flushed all the time
children=()
trap 'kill -KILL "${children[@]}" 2>/dev/null || true; pkill -KILL -f -- "--run-dir=$dir/" || true; wait || true; rm -rf "$dir"' EXIT
cd "$dir"

fail() {
    echo "residuals: $*" >&2
    for log in "$name".*; do
        [ ! -f "$log" ] || { echo "== $log" && tail -n 25 "$log"; } >&2
    done
    exit 1
}
steps=300
run() { # NAME SERVERS FLAG...: in the background
    name=$1
    "$bin/psdctl" run --data-train=glyphs:1200 --data-test=glyphs:100 --data-batch=240 --model-layers=784,32,10 --workers-min=3 --workers-want=3 \
        --stop-steps=$steps --eval-every=0 --status-listen=none --progress=none --listen=tcp://127.0.0.1:0 --lease=2s --join-timeout=60s \
        --checkpoint-every=0s --checkpoint-every-steps=20 --checkpoint-dir="$dir/$1.ckpt" --run-dir="$dir/$1.run" --servers="$2" \
        "${@:3}" </dev/null >"$1.out" 2>>"$1.log" &
    job=$!
    children+=("$job")
}
saved() { # ROUND: wait until there is a checkpoint of it or of a later one
    local i
    for ((i = 0; i < 1200; i++)); do
        [[ $(printf '%s\n' "$name".ckpt/MANIFEST-*.json | tail -n 1) < $name.ckpt/MANIFEST-$(printf %012d "$1").json ]] || return 0
        kill -0 $job 2>/dev/null || fail "ended before a checkpoint of round $1"
        sleep 0.05
    done
    fail "no checkpoint of round $1"
}
of_run() { pgrep -f -- "$bin/$1 .*--run-dir=$dir/$name.run"; }
kill_all() { # as when the power goes
    kill -KILL "$job"
    pkill -KILL -f -- "--run-dir=$dir/$name.run" || true
    wait "$job" || true
}
ends_well() { wait $job || fail "$1: ended with $?"; }
sha() { grep -o '"sha256": *"[0-9a-f]*"' "$1.run/summary.json" || fail "$1 names no weights"; }
resets() { cat "$name.log" "$name".run/*.log 2>/dev/null | grep -c 'residual\.reset' || true; }
n=0
while read -r push rule; do
    n=$((n + 1))
    job_flags=(--codec-push="$push" "--optimizer=$rule")
    run peace$n 2 "${job_flags[@]}"
    ends_well "$push, undisturbed"

    run all$n 2 "${job_flags[@]}"
    saved 40
    kill_all
    run all$n 3 "${job_flags[@]}"
    ends_well "$push, killed whole and started again on 3 servers"
    [ "$(sha all$n)" = "$(sha peace$n)" ] || fail "$push: the death of all has changed the weights"
    [ "$(resets)" = 0 ] || fail "$push: the death of all has reset a residual"

    run servers$n 2 "${job_flags[@]}"
    for round in 40 140; do
        saved $round
        kill -KILL "$(of_run psd | shuf -n 1)"
        sleep 0.2
    done
    ends_well "$push, with servers killed"
    [ "$(sha servers$n)" = "$(sha peace$n)" ] || fail "$push: the death of servers has changed the weights"
    [ "$(resets)" = 0 ] || fail "$push: the death of servers has reset a residual"
done <<'END'
int8 adam(lr=0.002)
sign sgd(lr=0.05)
topk(0.05) lookahead(adam(lr=0.002), k=5)
f32 dlion(lr=0.001)
END

# A worker takes its residual with it, and says so; the job comes to an end.
run worker 2 --codec-push=int8 '--optimizer=adam(lr=0.002)' --workers-lost=wait
saved 40
kill -KILL "$(of_run psd-worker | head -n 1)"
ends_well 'with a worker killed'
[ "$(resets)" = 1 ] || fail "a worker was killed, and $(resets) residuals reset"

# Without them files are smaller, and a restart resets all.
run reset 2 --codec-push=int8 '--optimizer=adam(lr=0.002)' --codec-residual=reset
saved 40
kill -TERM $job
wait $job || true
run reset 2 --codec-push=int8 '--optimizer=adam(lr=0.002)' --codec-residual=reset
ends_well 'reset'
[ "$(resets)" = 3 ] || fail "codec.residual=reset: $(resets) of 3 residuals reset"
size() { cat "$1.ckpt"/*"$(printf %05d $steps)"/shard-*.safetensors | wc -c; }
[ "$(size reset)" -lt "$(size all1)" ] || fail 'the files are not smaller'
echo 'residuals go with checkpoints'
