#!/usr/bin/env bash
# wait_verb.sh BIN SOURCE - psdctl wait against a real job: it returns when the job is ready, at a step and finished, says
# what became of one that was stopped before, and gives up on a server that is not there.
set -euo pipefail
bin=$1 source=$2
dir=$(mktemp -d)
trap '[ -z "${job-}" ] || kill "$job" 2>/dev/null || true; wait; rm -rf "$dir"' EXIT

fail() {
    echo "wait_verb: $*" >&2
    cat "$dir/out" >&2
    exit 1
}

# expect CODE WORDS...: psdctl wait WORDS ends with CODE.
expect() {
    local wanted=$1 rc=0
    shift
    timeout 600 "$bin/psdctl" wait "$@" >"$dir/wait" 2>&1 || rc=$?
    [ "$rc" -eq "$wanted" ] || fail "wait $* ended with $rc instead of $wanted: $(cat "$dir/wait")"
}

# Start a job with the options $@ in the background and find its status address.
start() {
    : >"$dir/out"
    "$bin/psdctl" run "$source/deploy/examples/glyphs.yaml" --run-dir="$dir/run" --progress=none --threads=1 \
        --data-train=glyphs:6000 --data-test=glyphs:1000 "$@" \
        >"$dir/out" 2>&1 &
    job=$!
    for ((i = 0; i < 3000; i++)); do
        url=$(sed -n 's/.*status \(http[^ ]*\).*/\1/p' "$dir/out" | head -n 1)
        [ -z "$url" ] || return 0
        sleep 0.1
    done
    fail "no address"
}

# Start psdctl wait with the words after $1 in the background, which must end with code $1; returns when it has looked at the job.
follow() {
    local looks now
    looks=$(looked)
    expect "$@" "$url" &
    follower=$!
    for ((i = 0; i < 3000; i++)); do
        now=$(looked)
        [ "$now" = "$looks" ] || return 0
        sleep 0.1
    done
    fail "psdctl wait asks for nothing"
}
looked() { curl -fsS "$url/metrics" | grep '^psd_http_requests_total{path="/events"}' || true; }

# The job is paused until psdctl wait follows it, however slow the steps before are.
start --stop-steps=600 --stop-epochs=0
expect 0 "$url"
operate=$(sed -n 's/.*operate psdctl pause //p' "$dir/out" | head -n 1)
read -ra operate <<<"$operate"
"$bin/psdctl" pause "${operate[@]}" >/dev/null || fail "the job was over before it was paused"
follow 75 --for=step=1000000000
earlier=$follower
follow 0 --for=finished
expect 69 --for=step=1000000000 --timeout=2 "$url" # while the server answers
"$bin/psdctl" resume "${operate[@]}" >/dev/null
wait "$follower" || fail "psdctl wait did not see the end"
wait "$earlier" || fail "psdctl wait did not see that the job had ended before that step"
wait "$job" || fail "the job failed"

# With checkpoints it first makes the last one, and is over before it has ended.
start --stop-steps=1000000000 --stop-epochs=0 --checkpoint-dir="$dir/ck"
expect 0 --for=step=1 "$url"
expect 0 --for=step=100 "$url"
follow 75 --for=finished
kill "$job"
wait "$job" || true
wait "$follower" || fail "psdctl wait did not see the stop"
job=

# Start only server 0 of a job, with the options $@ in the background, and find its addresses.
start_server() {
    : >"$dir/out"
    "$bin/psd" --insecure --listen=tcp://127.0.0.1:0 --status-listen=127.0.0.1:0 --log-level=error "$@" >"$dir/out" 2>&1 &
    job=$!
    for ((i = 0; i < 3000; i++)); do
        url=$(sed -n 's/.* status=\(http[^ ]*\).*/\1/p' "$dir/out")
        data=$(sed -n 's/.* data=\([^ ]*\).*/\1/p' "$dir/out")
        [ -z "$url" ] || return 0
        sleep 0.1
    done
    fail "no address"
}

# A job that waits for a lost worker: it is said once, however often the server answers.
start_server --lease=1s --join-timeout=0s
"$bin/psd-worker" --insecure --join="$data" --data-train=glyphs:600 --data-test=glyphs:100 --model-layers=784,4,10 --stop-epochs=0 \
    --stop-steps=1000000000 >/dev/null 2>&1 &
worker=$!
expect 0 --for=step=1 "$url"
kill -KILL "$worker"
for ((i = 0; i < 3000; i++)); do
    ! curl -fsS "$url/status" | grep -q '"state": *"degraded"' || break
    sleep 0.1
done
expect 69 --for=finished --timeout=2 "$url"
[ "$(grep -c '^psdctl wait: the job is degraded, waits for ' "$dir/wait")" -eq 1 ] || fail "$(cat "$dir/wait")"
kill "$job"
wait "$job" "$worker" || true

# A job that fails: its only worker never comes.
start_server --join-timeout=3s
expect 1 --for=finished "$url"
grep -q 'the job has failed, at step 0' "$dir/wait" || fail "$(cat "$dir/wait")"
wait "$job" || true
job=

# Of a document, it reads the state and the step: `told STATE READY`, then `says CODE WORDS... -- SENTENCE`.
told() {
    printf 'data: {"state": "%s", "ready": %s, "reason": "pushes", "progress": {"step": 1234}}\n\n' "$1" "$2" >"$dir/new"
    mv "$dir/new" "$dir/document"
}
says() {
    local words=()
    while [ "$1" != -- ]; do
        words+=("$1")
        shift
    done
    expect "${words[@]}" "$url"
    [ "$(cat "$dir/wait")" = "$2" ] || fail "wait ${words[*]}: $(cat "$dir/wait")"
}
told training true
"$bin/serve_status" "$dir/document" >"$dir/url" &
job=$!
for ((i = 0; i < 3000; i++)); do
    [ ! -s "$dir/url" ] || break
    sleep 0.1
done
url=$(cat "$dir/url")
says 0 --for=ready -- ''
says 0 --for=step=1234 -- ''
expect 69 --for=step=1235 --timeout=0.3 "$url"
told training false
expect 69 --for=ready --timeout=0.3 "$url"
for end in failed/1/'has failed' stopped/75/'is stopped' finished/75/'is finished'; do
    IFS=/ read -r state code words <<<"$end"
    told "$state" false
    says "$code" --for=step=1235 -- "psdctl wait: the job $words, at step 1234"
done
says 0 --for=finished -- ''
kill "$job"
wait "$job" || true
job=

expect 69 --timeout=0.5 127.0.0.1:1
grep -q 'no server answers' "$dir/wait" || fail "$(cat "$dir/wait")"
expect 64 --for=nothing
expect 64 --for=step=0
expect 64 --for=step=1.5
expect 64 --timeout=-1
expect 64 nowhere
echo "wait_verb: ok"
