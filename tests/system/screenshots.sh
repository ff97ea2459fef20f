#!/usr/bin/env bash
# screenshots.sh BIN SOURCE - the dashboard of a running job with one slowed worker, what psdctl status --html keeps of it,
# and a comparison's report, in a browser: screenshots.mjs says what must be there. Pictures are in BIN/../screenshots.
# Skipped where chromium or node is missing (apt-get install chromium nodejs).
set -euo pipefail
bin=$1 source=$2
for program in chromium node; do
    command -v $program >/dev/null || {
        echo "screenshots: skipped: $program is not installed"
        exit 77
    }
done
dir=$(mktemp -d) pictures=$bin/../screenshots
mkdir -p "$pictures"
trap '[ -z "${slower-}" ] || kill $slower; [ -z "${slow-}" ] || kill -CONT "$slow" 2>/dev/null || true
    kill "$job" 2>/dev/null || true; wait || true; rm -rf "$dir"' EXIT

fail() {
    echo "screenshots: $*" >&2
    exit 1
}

"$bin/psdctl" compare "$source/deploy/examples/glyphs.yaml" --optimizers 'adam(lr=0.002)' 'lion(lr=3e-4)' 'sgd(lr=50)' \
    --lr-sweep=0.3,1 --seeds=2 --stop-steps=60 --eval-every=10 --run-dir="$dir/compared" >"$dir/compare.out" 2>&1 || fail "$(tail -n 3 "$dir/compare.out")"

: >"$dir/out"
"$bin/psdctl" run "$source/deploy/examples/glyphs.yaml" --run-dir="$dir/run" --progress=none --threads=1 --workers-min=2 --workers-want=3 --workers-lost=drop --restarts=0 \
    --stop-epochs=0 --stop-steps=1000000000 --checkpoint-dir="$dir/checkpoints" --checkpoint-every=3s \
    --optimizer='lookahead(sgd(lr=0.01), k=5, alpha=0.5)' >"$dir/out" 2>&1 &
job=$!
for ((i = 0; i < 3000; i++)); do
    url=$(sed -n 's/^status \(http[^ ]*\).*/\1/p' "$dir/out" | head -n 1)
    [ -z "$url" ] || break
    sleep 0.1
done
"$bin/psdctl" wait --for=step=20 --timeout=120 "$url"

# Worker 1 is called HOST:PID; it is stopped for most of the time.
slow=$("$bin/psdctl" status "$url" | sed -n 's/^  1  *[^ ]*:\([0-9]*\) .*/\1/p')
victim=$("$bin/psdctl" status "$url" | sed -n 's/^  2  *[^ ]*:\([0-9]*\) .*/\1/p')
[ -n "$slow" ] || fail 'there is no worker 1'
while kill -STOP "$slow" && sleep 0.25 && kill -CONT "$slow" && sleep 0.05; do :; done 2>/dev/null &
slower=$!
blames() { # what the page's script has to show: it alone is slow, for its gradients
    grep -q '"alerts":\["rounds wait for worker 1 ' "$1" && [ "$(grep -o '"slow_reason":"' "$1" | wc -l)" -eq 1 ] &&
        grep -q '"slow_reason":"compute"' "$1"
}
for ((i = 0; i < 3000; i++)); do
    "$bin/psdctl" status --html "$url" >"$dir/moment.html"
    ! blames "$dir/moment.html" || break
    sleep 0.1
done
[ "$i" -lt 3000 ] || fail 'worker 1 is not blamed'
page=$(cat "$dir/moment.html")
! grep -q 'src=\|href=\|http-equiv=refresh' <<<"${page%%<script*}" || fail 'the moment would load something'
node "$source/tests/system/screenshots.mjs" "$url" "$pictures" 1 "$dir/compared/report.html" "$dir/moment.html" "$victim"
