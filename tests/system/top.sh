#!/usr/bin/env bash
# top.sh BIN SOURCE - psdctl top on a terminal of 80 by 24: what it shows of a real job is what /status says, its keys do what
# it says they do, and without a terminal it says so. Of a document, it shows each figure in its place.
set -euo pipefail
bin=$1 source=$2
command -v tmux >/dev/null || { echo 'top: skipped: there is no tmux' && exit 77; }
dir=$(mktemp -d)
server=psd-top-$$
trap 'tmux -L $server kill-server 2>/dev/null || true; kill "$job" ${endpoint-} 2>/dev/null || true; wait || true; rm -rf "$dir"' EXIT

fail() {
    echo "top: $*" >&2
    cat "$dir/screen" >&2 2>/dev/null || true
    exit 1
}

screen() { tmux -L $server capture-pane -p >"$dir/screen"; }

expect() { # WORDS: on the screen
    for ((i = 0; i < 3000; i++)); do
        screen
        ! grep -q -- "$1" "$dir/screen" || return 0
        sleep 0.1
    done
    fail "the screen lacks: $1"
}

: >"$dir/out"
"$bin/psdctl" run "$source/deploy/examples/glyphs.yaml" --run-dir="$dir/run" --progress=none --threads=1 --stop-epochs=0 \
    --stop-steps=1000000000 >"$dir/out" 2>&1 &
job=$!
for ((i = 0; i < 3000; i++)); do
    url=$(sed -n 's/^status \(http[^ ]*\).*/\1/p' "$dir/out" | head -n 1)
    [ -z "$url" ] || break
    sleep 0.1
done
"$bin/psdctl" wait --for=step=20 --timeout=120 "$url"

tmux -L $server -f /dev/null new-session -d -x 80 -y 24 "$bin/psdctl top $url; echo ended with \$?; sleep 60"
expect '^glyphs: training   shard 0 of 2   up '
expect '^glyphs: training .* epoch [0-9.]*   [0-9hms]* left'
expect '^step [1-9][0-9]*   [1-9][0-9.]* steps/s   [1-9][0-9.k]* samples/s   loss [0-9.]'
expect 'Lookahead phase [0-4] of 5'
expect '^   0  .*:[0-9]* * live '
expect '^   1  .*:[0-9]* * live '
expect '^q quit   s sorted by waited for   ? help'
! grep -q 'push w$' "$dir/screen" || fail 'the last column is cut'
[ "$(wc -l <"$dir/screen")" -le 24 ] || fail 'more than 24 lines'
[ "$(awk '{ print length }' "$dir/screen" | sort -n | tail -n 1)" -le 80 ] || fail 'a line is longer than 80'
step=$(sed -n 's/^step \([0-9]*\) .*/\1/p' "$dir/screen")
real=$("$bin/psdctl" status "$url" | sed -n 's/^  step \([0-9]*\),.*/\1/p')
[ "$real" -ge "$step" ] && [ "$step" -gt 0 ] || fail "it shows step $step, /status $real"
tmux -L $server send-keys s
expect 'sorted by worker '
tmux -L $server send-keys '?'
expect 'share of the time in which only this'
tmux -L $server send-keys '?'
expect '^glyphs: '
tmux -L $server resize-window -x 100 -y 12
expect '^q quit'
tmux -L $server send-keys q
expect '^ended with 0'

rc=0
"$bin/psdctl" top "$url" >"$dir/screen" 2>&1 </dev/null || rc=$?
[ "$rc" -eq 64 ] && grep -q 'this is not a terminal' "$dir/screen" || fail "without a terminal: $rc"

# ---- figures; each answer is 2 s, 10 steps and 6400 samples after the one before ----

document() { # AGE MORE: of the checkpoint, as a member of JSON; further workers
    cat >"$dir/new" <<DOCUMENT
{"job": "canned", "shard": {"index": 1, "count": 3}, "now": @1000+2@, "uptime_seconds": 3725, "state": "training",
 "reason": "pushes of workers 4 (round 9)", "progress": {"step": @100+10@, "samples": @5000+6400@, "epoch": 2.5, "left_seconds": 95.9},
 "loss": {"train": 0.12345, "val": 0.5}, "report": {"name": "val/accuracy", "value": 0.875},
 "optimizer": {"rule": "lookahead(adam(lr=0.001), k=5)", "lr_now": 0.00025, "lookahead": {"k": 5, "phase": 2}},
 "sync": {"mode": "bsp"}, "checkpoint": {"number": 1200, "duration_seconds": 2 $1},
 "workers": [ ${2-}
   {"id": 0, "name": "a:10", "state": "live", "awaited_share": 0.125, "compute_seconds": 0.02, "send_seconds": 0.00099951,
    "samples_per_second": 11400, "lag_steps": 0, "last_push_age_seconds": 1.5, "slow_reason": null},
   {"id": 4, "name": "b:11", "state": "late", "awaited_share": 0.5, "compute_seconds": 125, "send_seconds": 0.0004,
    "samples_per_second": 999.7, "lag_steps": 7, "last_push_age_seconds": 5400, "slow_reason": "network"},
   {"id": 2, "name": "c:12", "state": "joining", "step": 0}],
 "alerts": ["rounds wait for worker 4"]}
DOCUMENT
    mv "$dir/new" "$dir/document"
}

document ', "age_seconds": 61'
"$bin/serve_status" "$dir/document" >"$dir/url" &
endpoint=$!
for ((i = 0; i < 3000; i++)); do
    [ ! -s "$dir/url" ] || break
    sleep 0.1
done
tmux -L $server kill-server 2>/dev/null || true
server=$server-figures # a new one, because the old one may still be ending
tmux -L $server -f /dev/null new-session -d -x 80 -y 24 "$bin/psdctl top $(cat "$dir/url"); sleep 60"
expect '^canned: training   shard 1 of 3   up 1h02m   epoch 2.50   1m35s left *$'
expect '^step [0-9]*   5 steps/s   3.2k samples/s   loss 0.1235   val/accuracy 0.875$'
expect '^lookahead(adam(lr=0.001), k=5)$'
expect '^learning rate 0.00025   Lookahead phase 2 of 5   checkpoint 1200, 1m01s ago$'
expect '^bsp   waits for pushes of workers 4 (round 9)$'
expect '^! rounds wait for worker 4$'
grep -A 3 '^  id  worker ' "$dir/screen" | sed 's/ *$//' >"$dir/rows"
diff - "$dir/rows" <<'ROWS' || fail 'the workers have other figures'
  id  worker         state   waited computes    sends smpl/s  lag   push why
   4  b:11           late       50%    2m05s    400us     1k    7  1h30m network
   0  a:10           live       12%     20ms      1ms  11.4k    0   1.5s
   2  c:12           joining      -        -        -      -    -      -
ROWS
document ''
expect '^learning rate 0.00025   Lookahead phase 2 of 5   checkpoint 1200$'
# The rows by each column in turn, of which some rise; one without that number is the last.
for order in 'worker 0' 'computes 4' 'samples/s 4' 'lag 4' 'last push 4' 'waited for 4'; do
    tmux -L $server send-keys s
    expect "sorted by ${order% *} "
    first=$(sed -n '/^  id  worker /{n;p}' "$dir/screen" | awk '{ print $1 }')
    [ "$first" = "${order##* }" ] || fail "by ${order% *}, worker $first is first"
    last=$(sed -n '/^  id  worker /{n;n;n;p}' "$dir/screen" | awk '{ print $1 }')
    [ "$last" = 2 ] || [ "${order% *}" = worker ] || fail "by ${order% *}, worker $last is last"
done
# More workers than lines, of which the last one says how many there are; and a server that has gone.
more=$(for i in {10..36}; do printf '{"id": %d, "name": "w%d", "state": "live", "awaited_share": 0}, ' "$i" "$i"; done)
document '' "$more"
expect '^and 16 more$'
expect '^  21  w21 '
! grep -q '^  22  w22 ' "$dir/screen" || fail 'it shows more workers than it says'
# While the server gives no document, the old figures stay and are said to be old; no longer than that.
echo 'no document' >"$dir/new"
mv "$dir/new" "$dir/document"
expect '^canned: .*   1m35s left   (old: '
expect '^   4  b:11 '
document '' ''
expect '^canned: .*   1m35s left *$'
kill "$endpoint"
wait "$endpoint" || true
expect '^canned: .*(old: '
expect '^   4  b:11 '
echo 'top: ok'
