#!/usr/bin/env bash
# top.sh BIN SOURCE - psdctl top on a terminal of 80 by 24: what it shows of a real job is what /status says, its keys do what
# it says they do, and without a terminal it says so.
set -euo pipefail
bin=$1 source=$2
command -v tmux >/dev/null || { echo 'top: skipped: there is no tmux' && exit 77; }
dir=$(mktemp -d)
server=psd-top-$$
trap 'tmux -L $server kill-server 2>/dev/null || true; kill "$job" 2>/dev/null || true; wait || true; rm -rf "$dir"' EXIT

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
echo 'top: ok'
