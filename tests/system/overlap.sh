#!/usr/bin/env bash
# overlap.sh BIN - weights that leave while gradients still come: on an address that is not loopback, a job comes to the weights of the
# same job without them, for several rules and codecs, tensor by tensor, also when a server and a worker are killed on the way.
set -euo pipefail
bin=$1
address=$(hostname -I 2>/dev/null | awk '{ print $1 }')
[ -n "$address" ] || { echo "overlap: skipped: this machine has no address except loopback"; exit 77; }
[[ $address != *:* ]] || address="[$address]"
dir=$(mktemp -d -p /dev/shm 2>/dev/null || mktemp -d) # checkpoints are flushed all the time
children=()
trap 'kill -KILL "${children[@]}" 2>/dev/null || true; pkill -KILL -f -- "--run-dir=$dir/|--checkpoint-dir=$dir/" || true; wait || true; rm -rf "$dir"' EXIT
cd "$dir"

fail() {
    echo "overlap: $*" >&2
    for log in "$name".*.log; do
        [ ! -f "$log" ] || { echo "== $log" && tail -n 25 "$log"; } >&2
    done
    exit 1
}
"$bin/psdctl" keygen ps --role=server >allow
"$bin/psdctl" keygen w >>allow

keep() { # PROCESS COMMAND...: in the background; one that is killed is started again
    (
        while :; do
            "${@:2}" >>"$name.$1.out" 2>>"$name.$1.log" &
            echo $! >"$name.$1.pid"
            rc=0
            wait $! || rc=$?
            [ $rc = 137 ] || exit $rc
        done
    ) 2>/dev/null &
    children+=($!)
}
said() { # FILE PATTERN: the last match of the group, once the program has said it
    local i found
    for ((i = 0; i < 3000; i++)); do
        found=$([ ! -e "$1" ] || sed -n "s/.*$2.*/\1/p" "$1" | tail -n 1)
        [ -z "$found" ] || break
        kill -0 "${children[-1]}" 2>/dev/null || fail "ended without a word"
        sleep 0.1
    done
    echo "$found"
}
serve() { # INDEX FLAG...
    keep "server$1" "$bin/psd" --listen="tcp://$address:0" --servers=2 --server-index="$1" --workers-min=2 --workers-want=2 --workers-lost=wait \
        --net-local=off --server-key=ps.key --allow=allow --message-size=16Ki --lease=2s --join-timeout=60s \
        --checkpoint-dir="$dir/$name.ckpt" --checkpoint-every=0s --checkpoint-every-steps=20 "${@:2}"
}
start() { # NAME FLAG...: two servers and two workers; servers take the flags
    name=$1
    children=()
    mkdir "$name.ckpt"
    serve 0 --status-listen=127.0.0.1:0 "${@:2}"
    url=$(said "$name.server0.out" 'status=\([^ ]*\)')
    join=$(said "$name.server0.out" 'data=\([^ ]*\)')
    serve 1 --status-listen=none --join="$join" "${@:2}"
    for id in 0 1; do
        keep "worker$id" "$bin/psd-worker" --join="$join" --worker-key=w.key --server-public=ps.pub --worker-id=$id --model-kind=mlp \
            --model-layers=784,100,10 --data-train=glyphs:1200 --data-test=glyphs:100 --data-batch=240 --eval-every=0 --stop-steps=200 \
            --progress=none --run-dir="$dir/$name.run$id"
    done
}
saved() { # STEP: wait until there is a checkpoint of it or of a later one
    local i
    for ((i = 0; i < 1200; i++)); do
        [[ $(printf '%s\n' "$name".ckpt/MANIFEST-*.json | tail -n 1) < $name.ckpt/MANIFEST-$(printf %012d "$1").json ]] || return 0
        sleep 0.05
    done
    fail "no checkpoint of step $1"
}
ahead() { # the parts that server 0 has stepped ahead
    curl -fsS "$url/metrics" | sed -n 's/^psd_parts_ahead_total{shard="0"} //p'
}
ends_well() {
    local child
    for child in "${children[@]}"; do
        wait "$child" || fail "$name: a process ended with $?"
    done
}
sha() { grep -o '"sha256": *"[0-9a-f]*"' "$1.run0/summary.json" || fail "$1 names no weights"; }

n=0
while read -r push pull rule; do
    n=$((n + 1))
    flags=("--optimizer=$rule" --codec-push="$push" --codec-pull="$pull")
    start off$n "${flags[@]}" --net-overlap=off
    saved 100
    [ "$(ahead)" = 0 ] || fail "$rule: net.overlap=off, and parts were stepped ahead"
    ends_well

    start on$n "${flags[@]}"
    saved 100
    [ "$(ahead)" -gt 0 ] || fail "$rule: no part was stepped ahead in 100 steps"
    ends_well
    [ "$(sha on$n)" = "$(sha off$n)" ] || fail "$rule, codecs $push and $pull: other weights than without"

    victims=0
    start killed$n "${flags[@]}"
    for victim in worker1 server1 worker0; do
        saved $((victims++ * 50 + 40))
        [[ $push != f32 && $victim = worker* ]] || kill -KILL "$(cat killed$n.$victim.pid)" # a dead worker's residual is lost
    done
    ends_well
    [ "$(sha killed$n)" = "$(sha off$n)" ] || fail "$rule, codecs $push and $pull: killed processes have changed the weights"
done <<'END'
f32 f32 sgd(lr=0.05)
f32 f32 adam(lr=0.002)
f32 f32 lookahead(momentum(lr=0.02), k=3)
int8 bf16 adam(lr=0.002)
END
echo "overlap: $n jobs, the same weights with and without it, and with processes killed"
