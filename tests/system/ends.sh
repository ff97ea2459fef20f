#!/usr/bin/env bash
# ends.sh BIN SOURCE - how programs end: for each situation that can be brought about, the exit code, the sentence, what is on
# disk, and what psdctl run does next.
set -euo pipefail
bin=$1
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
fail() { echo "ends: ${now:-}: $*"; exit 1; }

printf '1 1:0.5 3:1\n0 1:-0.5 3:2\n1 1:1\n0 3:1\n' >gap.svm
model=(--insecure --model-kind=logistic --data-train=libsvm:gap.svm --data-batch=full --stop-steps=5)
run=("$bin/psdctl" run --listen=tcp://127.0.0.1:0 --status-listen=127.0.0.1:0 --progress=none "${model[@]}")
nobody=(--join=tcp://127.0.0.1:1 --join-timeout=1s)

# ends CODE SENTENCE WORD...: the command ends with the code and says the sentence.
ends() {
    local want=$1 sentence=$2 code=0
    shift 2
    timeout 120 "$@" >said 2>&1 || code=$?
    [ "$code" = "$want" ] || fail "$* ended with $code, not $want: $(cat said)"
    [ -z "$sentence" ] || grep -qF -- "$sentence" said || fail "$* does not say '$sentence': $(cat said)"
}
never_restarted() { ! grep -q run.restart said || fail "started again: $(cat said)"; }

# An output that cannot be written is found before training, by whoever would write it and by those who are asked.
output_probe() {
    local what flag
    touch file
    for what in save=/no/such/m.st save=. trace=/no/such/t trace=. run-dir=/proc/no run-dir=file checkpoint-dir=file; do
        flag=--$what
        key=$(sed 's/=.*//; s/-/./' <<<"$what")
        ends 74 "$key: cannot" "${run[@]}" "$flag"
        grep -q '^status ' said && fail "$flag: something was started"
        ends 74 "$key: cannot" "$bin/psdctl" config check "${model[@]}" "$flag"
        ends 1 "$key: cannot" "$bin/psdctl" doctor "${model[@]}" "$flag"
        [ "$what" = checkpoint-dir=file ] || ends 74 "$key: cannot" "$bin/psd-worker" "${model[@]}" "${nobody[@]}" "$flag"
    done
    mkdir -p old/metrics.jsonl
    ends 74 'old/metrics.jsonl: it is a directory' "${run[@]}" --run-dir=old
    ln -s /no/such/m.st gone
    ends 74 'save: cannot write gone' "${run[@]}" --save=gone
    ends 0 '' "$bin/psdctl" config check "${model[@]}" --save=new.st --trace=new --run-dir=new/er --checkpoint-dir=new/est
    [ ! -e new ] && [ ! -e new.st ] || fail 'a look has left something'
}

# One that fails later keeps its code, whether under psdctl run or by hand, and in the summary.
output_late() {
    for flag in --save=/dev/full --trace=/dev/full; do
        ends 74 'No space left' "${run[@]}" "$flag" --run-dir=late
        never_restarted
        grep -q '"outcome": "input or output failed"' late/summary.json || fail "$(cat late/summary.json)"
        rm -r late
    done
}

for now in output_probe output_late; do "$now"; done
echo 'ends: as they should be'
