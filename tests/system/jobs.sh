#!/usr/bin/env bash
# Whole jobs with real processes on loopback, watched while they run: synchronous and asynchronous, several servers and
# workers, a model of many chunks. In a build with sanitizers, each process ends badly when one has something to say.
# Usage: jobs.sh BIN_DIR SOURCE_DIR
set -euo pipefail
bin=$1
cd "$2"
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

job() { # NAME JOB FLAG...: run it, asking for its status all the while
    local name=$1 url='' pid
    shift
    : >"$out/$name.txt"
    "$bin/psdctl" run "$@" --run-dir="$out/$name" >"$out/$name.txt" 2>&1 </dev/null &
    pid=$!
    while kill -0 $pid 2>/dev/null; do
        [ -n "$url" ] || url=$(sed -n 's/^status //p' "$out/$name.txt")
        [ -z "$url" ] || "$bin/psdctl" status --json "$url" >/dev/null 2>&1 || true
        sleep 0.05
    done
    if wait $pid; then
        echo "$name: $(grep -o 'steps  *[0-9]*' "$out/$name.txt")"
        return
    fi
    cat "$out/$name.txt" "$out/$name"/logs/*
    echo "$name failed"
    exit 1
}

job linear deploy/examples/linear.yaml
job linear-asp deploy/examples/linear.yaml --sync-mode=asp --optimizer='sgd(lr=0.05)' --servers=2 --stop-steps=50
job glyphs deploy/examples/glyphs.yaml --workers-min=3 --data-train=glyphs --stop-epochs=0 --stop-steps=40
