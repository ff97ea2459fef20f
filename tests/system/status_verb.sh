#!/usr/bin/env bash
# status_verb.sh BIN SOURCE - psdctl status prints each figure of a document under its name, and its exit code is the job's state.
set -euo pipefail
bin=$1
dir=$(mktemp -d)
trap 'kill "$server" 2>/dev/null || true; wait; rm -rf "$dir"' EXIT

fail() {
    echo "status_verb: $*" >&2
    exit 1
}

# document STATE REASON: written at once, because the server reads it at each request.
document() {
    cat >"$dir/new" <<DOCUMENT
{"schema": "psd.status/1", "job": "canned", "shard": {"index": 1, "count": 3}, "now": 1000, "uptime_seconds": 3725, "state": "$1",
 "reason": "$2", "progress": {"step": 1234, "rounds": 1300, "samples": 56789, "epoch": 2.5, "left_seconds": 95},
 "loss": {"train": 0.12345, "val": 0.5},
 "optimizer": {"rule": "adam(lr=0.001)", "lr_now": 0.00025, "groups": [
   {"match": "head.*", "rule": "sgd(lr=1)", "lr_mult": 2, "lr_now": 0.5, "frozen": false},
   {"match": "*", "rule": "", "lr_mult": 1, "lr_now": 0, "frozen": true}]},
 "sync": {"mode": "bsp"},
 "workers": [
   {"id": 0, "name": "a:10", "state": "live", "step": 1235, "lag_steps": 0, "loss": 0.25},
   {"id": 4, "name": "b:11", "state": "late", "step": 1230, "lag_steps": 5, "loss": 0.75},
   {"id": 5, "name": "c:12", "state": "live", "step": 1234567, "lag_steps": 1, "loss": null},
   {"id": 6, "name": "d:13", "state": "joining", "step": 0}],
 "alerts": ["rounds wait for worker 4", "checkpoints cannot be written"]}
DOCUMENT
    mv "$dir/new" "$dir/document"
}

document training 'pushes of workers 4 (round 9)'
"$bin/serve_status" "$dir/document" >"$dir/url" &
server=$!
while [ ! -s "$dir/url" ]; do
    kill -0 "$server" || fail 'the server has ended'
    sleep 0.05
done
url=$(cat "$dir/url")

"$bin/psdctl" status "$url" >"$dir/said" || fail "a job that trains: $?"
diff - "$dir/said" <<'SAID' || fail 'it prints other figures'
canned: training, pushes of workers 4 (round 9), shard 1 of 3, up 3725 s
  step 1234, samples 56789, epoch 2.50, 95 s left, training loss 0.12345
  adam(lr=0.001), bsp, learning rate 0.00025
    head.*: sgd(lr=1), learning rate 0.5
    *: frozen, learning rate 0
  worker  name                     state        step    lag     loss
  0       a:10                     live         1235      0     0.25
  4       b:11                     late         1230      5     0.75
  5       c:12                     live      1234567      1        -
  6       d:13                     joining         0      -        -
  rounds wait for worker 4
  checkpoints cannot be written
SAID
"$bin/psdctl" status --json --status="$url" | grep -q '"left_seconds": 95' || fail '--json leaves something out'

# The exit code is the same with --json, for scripts that read the document too.
for end in training/0 finished/0 failed/1 stopped/75 waiting/75 gathering/75 degraded/75 paused/75; do
    document "${end%/*}" ''
    code=0
    "$bin/psdctl" status "$url" >"$dir/said" || code=$?
    [ "$code" -eq "${end#*/}" ] || fail "${end%/*} is $code, not ${end#*/}"
    grep -q "^canned: ${end%/*}, shard 1 of 3" "$dir/said" || fail "$(cat "$dir/said")"
    code=0
    "$bin/psdctl" status --json "$url" >"$dir/said" || code=$?
    [ "$code" -eq "${end#*/}" ] || fail "with --json, ${end%/*} is $code, not ${end#*/}"
    grep -q "\"state\": \"${end%/*}\"" "$dir/said" || fail "$(cat "$dir/said")"
done
# Before the first step there is no loss, and what was not measured is left out.
cat >"$dir/new" <<DOCUMENT
{"schema": "psd.status/1", "job": "new", "shard": {"index": 0, "count": 1}, "uptime_seconds": 3, "state": "waiting", "reason": "",
 "progress": {"step": 0, "samples": 0}, "loss": {"train": null}, "optimizer": {"rule": "sgd(lr=1)", "lr_now": 1},
 "sync": {"mode": "asp"}, "workers": [], "alerts": []}
DOCUMENT
mv "$dir/new" "$dir/document"
"$bin/psdctl" status "$url" >"$dir/said" || true
diff - "$dir/said" <<'SAID' || fail 'before the first step it prints something else'
new: waiting, shard 0 of 1, up 3 s
  step 0, samples 0
  sgd(lr=1), asp, learning rate 1
SAID
echo 'status_verb: ok'
