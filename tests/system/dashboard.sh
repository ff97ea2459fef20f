#!/usr/bin/env bash
# dashboard.sh BIN SOURCE - a real job with one worker that is stopped for most of the time: the status blames that one,
# the page and what it loads are whole, small, and ask for nothing elsewhere; /history and /events have what /status has.
set -euo pipefail
bin=$1 source=$2
dir=$(mktemp -d)
trap 'kill "${brake-}" 2>/dev/null || true; [ -z "${slow-}" ] || kill -CONT "$slow" 2>/dev/null || true
    kill "$job" 2>/dev/null || true; wait || true; rm -rf "$dir"' EXIT

fail() {
    echo "dashboard: $*" >&2
    exit 1
}

# The body of GET $1 goes to file $2, the head to $2.head.
get() {
    exec 3<>"/dev/tcp/127.0.0.1/$port"
    printf 'GET %s HTTP/1.0\r\nHost: localhost\r\n\r\n' "$1" >&3
    cat <&3 >"$dir/answer"
    exec 3<&-
    local n
    n=$(grep -a -b -m 1 -o $'^\r$' "$dir/answer" | cut -d: -f1)
    head -c "$n" "$dir/answer" >"$2.head"
    tail -c +$((n + 3)) "$dir/answer" >"$2"
    grep -q '^HTTP/1.. 200' "$2.head" || fail "$1: $(head -n 1 "$2.head")"
}

: >"$dir/out"
"$bin/psdctl" run "$source/deploy/examples/glyphs.yaml" --run-dir="$dir/run" --progress=none --threads=1 --workers-min=3 \
    --stop-epochs=0 --stop-steps=1000000000 --optimizer='lookahead(sgd(lr=0.01), k=5, alpha=0.5)' >"$dir/out" 2>&1 &
job=$!
for ((i = 0; i < 3000; i++)); do
    url=$(sed -n 's/^status \(http[^ ]*\).*/\1/p' "$dir/out" | head -n 1)
    [ -z "$url" ] || break
    sleep 0.1
done
port=${url##*:}
"$bin/psdctl" wait --for=step=20 --timeout=120 "$url"

# Worker 1 is called HOST:PID.
slow=$("$bin/psdctl" status "$url" | sed -n 's/^  1  *[^ ]*:\([0-9]*\) .*/\1/p')
[ -n "$slow" ] || fail 'there is no worker 1'
blames() { # it alone, for its gradients, and the alert says so
    grep -q "\"rounds wait for worker 1 ([^)]*:$slow) [1-9][0-9] % of the time: " "$dir/status" &&
        [ "$(grep -c '"slow_reason": "compute"' "$dir/status")" -eq 1 ] &&
        [ "$(grep -c '"slow_reason": null' "$dir/status")" -eq 2 ]
}
while kill -STOP "$slow" && sleep 0.25 && kill -CONT "$slow" && sleep 0.05; do :; done 2>/dev/null &
brake=$!
# On a busy machine other waits can be longer for a while: what is blamed is asked for until it is this worker.
soon() {
    for ((i = 0; i < 200; i++)); do
        ! "$@" || return 0
        sleep 0.3
    done
    return 1
}
looks() {
    before=$(date +%s.%N)
    get /status "$dir/status"
    blames
}
soon looks || fail "worker 1 is not blamed alone: $(grep -E -A 3 'slow_reason|alerts' "$dir/status")"
now=$(sed -n 's/^  "now": \([0-9]*\.[0-9]*\),$/\1/p' "$dir/status")
awk -v now="$now" -v before="$before" -v after="$(date +%s.%N)" 'BEGIN { exit !(now > before - 3 && now <= after) }' ||
    fail "between $before and $(date +%s) /status says that it is $now"
grep -q '"epoch": [0-9]' "$dir/status" || fail '/status does not say which epoch it is'
# The first "samples" and "epoch" are those of the job, and go together; the example has as many rows as glyphs has.
awk '/^  "progress"/ { on = 1 } on && /"samples":/ { s = $2 + 0 } on && /"epoch":/ { e = $2 + 0 } /^  }/ { on = 0 }
    END { r = s / 60000; exit !(s > 0 && e > r - 1e-6 && e < r + 1e-6) }' "$dir/status" || fail "epoch and samples differ: $(grep -A 6 '"progress"' "$dir/status")"
curl -fsS "$url/metrics" >"$dir/metrics.text"
grep -q '^psd_epoch [0-9]' "$dir/metrics.text" || fail '/metrics does not say which epoch it is'
grep -q '^psd_time_left_seconds [0-9]' "$dir/metrics.text" || fail '/metrics does not say how long it takes'
! grep -q 'name="progress/' "$dir/metrics.text" || fail 'the trainer reports its progress twice'
grep -q '"phase": [0-4]$' "$dir/status" || fail 'no phase of Lookahead'
tells() { "$bin/psdctl" status "$url" | grep -q 'rounds wait for worker 1 '; }
soon tells || fail 'psdctl status does not say so'

get / "$dir/page"
grep -q "^Content-Security-Policy: default-src 'none'" "$dir/page.head" || fail 'no policy for content'
grep -q '<h1>glyphs</h1>' "$dir/page" && grep -q '<noscript><meta http-equiv=refresh' "$dir/page" ||
    fail 'the page without scripts lacks'
size=$(wc -c <"$dir/page")
while read -r asset; do
    case $asset in
    /dashboard.*)
        get "$asset" "$dir/asset"
        grep -q '^Content-Encoding: gzip' "$dir/asset.head" || fail "$asset is not compressed"
        size=$((size + $(wc -c <"$dir/asset")))
        gunzip -c <"$dir/asset" >"$dir/$(basename "$asset")" || fail "$asset is not gzip"
        ;;
    /status | /metrics) ;;
    *) fail "the page asks for $asset" ;;
    esac
done < <(grep -o '\(src\|href\)=[^ >]*' "$dir/page" | cut -d= -f2)
[ "$size" -le $((80 * 1024)) ] || fail "the page takes $size bytes"
grep -q 'Permission is hereby granted' "$dir/dashboard.js" || fail 'the licence of dygraphs is not there'
[ -s "$dir/dashboard.css" ] || fail 'the page asks for no style'
! grep -q '@import\|url(' "$dir/dashboard.css" || fail 'the style loads something'
# What may run and load is what the policy says: only this server's own.
! sed '1,/^.use strict/d' "$dir/dashboard.js" | grep -q 'https*://\|innerHTML\|eval(' || fail 'the script goes elsewhere'
twice=$(grep -o '^function [A-Za-z]*' "$source/server/status/dashboard/dashboard.js" | sort | uniq -d)
[ -z "$twice" ] || fail "declared twice, of which only the last counts: $twice"
if command -v node >/dev/null; then
    node --check "$dir/dashboard.js" || fail 'the script is none'
fi

shows() {
    "$bin/psdctl" status --html "$url" >"$dir/moment.html" || fail "psdctl status --html: $?"
    moment=$(cat "$dir/moment.html")
    grep -q '<h1>glyphs</h1>.*rounds wait for worker 1 ' <<<"${moment%%<script*}"
}
soon shows || fail 'the saved page lacks'
! grep -q 'src=\|href=\|http-equiv=refresh\|@import\|url(' <<<"${moment%%<script*}" || fail 'the saved page loads something'
grep -q "id=saved>{\"status\":{\"schema\":\"psd.status/1\".*\"history\":{\"schema\":\"psd.history/1\"" <<<"$moment" ||
    fail 'the saved page does not have what the server had'

has_grown() {
    get /status "$dir/status"
    get /history "$dir/history"
    rows=$(sed 's/.*"rows":\[\[//; s/\]\].*//; s/\],\[/\n/g' "$dir/history")
    [ "$(wc -l <<<"$rows")" -ge 30 ]
}
soon has_grown || fail 'the history is short'
grep -q '^{"schema":"psd.history/1","columns":\["ts","step",' "$dir/history" || fail "$(head -c 200 "$dir/history")"
grep -q '"id":"worker.joined"' "$dir/history" || fail 'the log is not in the history'
step=$(sed -n 's/^    "step": \([0-9]*\),$/\1/p' "$dir/status" | head -n 1)
last=$(tail -n 1 <<<"$rows" | cut -d, -f2)
[ "$last" -ge "$step" ] && [ "$last" -lt $((step + 5000)) ] || fail "/status is at $step, the history at $last"
cut -d, -f2 <<<"$rows" | sort -nc || fail 'steps of the history fall'
echo "dashboard: ok, $size bytes"
