#!/usr/bin/env bash
# ends.sh BIN SOURCE - how programs end: for each situation that can be brought about, the exit code, the sentence, what is on
# disk, and what psdctl run does next.
set -euo pipefail
bin=$1
dir=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$dir"' EXIT
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

# An output that cannot be written is found before training, by the program that would write it and by config check and doctor.
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

# Printed output is a result too, of every verb.
stdout_lost() {
    local sentence='cannot write to standard output'
    full() { ends 74 "$sentence" sh -c '"$0" "$@" >/dev/full' "$bin/$1" "${@:2}"; }
    ends 0 '' "${run[@]}" --save=m.st --checkpoint-dir=ck --run-dir=r
    mkdir two
    full psdctl --version
    full psdctl help
    full psdctl help run
    full psdctl inspect m.st
    full psdctl config show "${model[@]}"
    full psdctl config show --json "${model[@]}"
    full psdctl config schema
    full psdctl config --markdown
    full psdctl checkpoint list ck
    full psdctl checkpoint verify ck
    full psdctl export --to=two ck
    full psdctl optimizers
    full psdctl optimizers adam
    full psdctl doctor --json
    full psdctl completion bash
    full psdctl run "${run[@]:2}"
    full psdctl compare "${model[@]}" --optimizers=sgd --seeds=1 --run-dir=cmp --progress=none
    full psd --help
    full psd-worker --version
    ends 74 'standard output' sh -c '"$0" "$@" >/dev/full' "$bin/psd" --insecure --listen=tcp://127.0.0.1:0 --status-listen=none
    ends 74 'cannot write to standard output: Bad file descriptor' sh -c '"$0" inspect m.st >&-' "$bin/psdctl"
    ends 0 '' sh -c '"$0" inspect m.st >/dev/null' "$bin/psdctl"
    ends 64 'no verb' sh -c '"$0" no >/dev/full' "$bin/psdctl" # the first failure counts
}

# Where float32 cannot tell eps from 0, 0/0 would be a weight.
eps_lost() {
    local rule
    for rule in 'adam(eps=0)' 'adamw(eps=1e-46)' 'nadam(eps=1e-40)' 'radam(eps=0)' 'adamax(eps=0)' 'adagrad(eps=1e-39)' \
                'adadelta(eps=0)' 'rmsprop(eps=0.0)' 'lookahead(adam(eps=1e-38), k=2)'; do
        ends 64 'it must be at least 1.1754943508222875e-38' "$bin/psdctl" config check "${model[@]}" --optimizer="$rule"
    done
    ends 0 '' "${run[@]}" --optimizer='adam(eps=1.2e-38)' --save=least.st
}

# Weights that are not finite are no result: not saved, not exported, not called done.
weights_lost() {
    printf '0,0\n1e16,1\n' >wide.csv
    local job=("${run[@]}" --model-kind=linear --data-train=csv:wide.csv --data-header=false --stop-steps=1 --checkpoint-dir=nan)
    ends 1 'the weights are not finite: ' "${job[@]}" --optimizer='sgd(lr=1e9)' --save=nan.st --run-dir=nan-run
    never_restarted
    [ ! -e nan.st ] || fail 'NaN was saved'
    grep -q '"outcome": "job failed"' nan-run/summary.json || fail "$(cat nan-run/summary.json)"
    ends 1 'is not finite at element' "$bin/psdctl" export --to=nan-out nan
    [ -z "$(ls nan-out 2>/dev/null)" ] || fail 'NaN was exported'
}

# Rounds that are skipped, or pushes that are rejected, one after the other, end the job, which names worker and tensor.
rounds_skipped() {
    local mode flag n job
    printf '3e38,1\n' >huge.csv
    for mode in bsp asp; do
        for n in 20 3; do
            job=("${run[@]}" --model-kind=linear --data-train=csv:huge.csv --data-header=false --stop-steps=200 "--sync-mode=$mode"
                 "--run-dir=skipped-$mode-$n")
            flag=--sync-max-skipped=$n
            [ $n = 3 ] || flag=--servers=1
            ends 1 "$n $([ $mode = bsp ] && echo rounds || echo 'pushes of a worker') in a row made no step" "${job[@]}" $flag
            never_restarted
            grep -q 'the gradient of worker 0 has Inf or NaN, first in tensor fc1.weight' said || fail "$(cat said)"
            grep -q 'id=gradient.nonfinite' said || fail "no log line: $(cat said)"
            grep -q '"outcome": "job failed"' skipped-$mode-$n/summary.json || fail "$(cat skipped-$mode-$n/summary.json)"
            grep -q "\"skipped\": $n," skipped-$mode-$n/summary.json || fail "$(cat skipped-$mode-$n/summary.json)"
            grep -q '"train/skipped": 1' skipped-$mode-$n/metrics.jsonl || fail 'not in the metrics'
        done
    done
    ends 0 '' "${job[@]}" --sync-max-skipped=0 --run-dir=unbounded
    grep -q '"skipped": 200' unbounded/summary.json || fail "$(cat unbounded/summary.json)"
}

job_done() {
    ends 0 'done' "${run[@]}" --save=done.st --run-dir=done
    [ -s done.st ] && grep -q '"outcome": "done"' done/summary.json || fail 'no model, or no good summary'
}
idle_workers() { # more of them than rows
    ends 0 'done' "${run[@]}" --workers-min=6 --run-dir=idle
    [ "$(grep -c 'id=worker.idle' said)" = 2 ] || fail "two of six are to say that they have no rows: $(cat said)"
    [ "$(cat idle/summary*.json | grep -c '"last_loss": ')" = 6 ] || fail 'not every worker has left a summary'
    ! grep -q '"last_loss": null' idle/summary*.json || fail "$(grep last_loss idle/summary*.json)"
    grep -q '^  loss  *[0-9]' said || fail "no loss: $(cat said)"
}
target_missed() {
    printf '1 1:0.5\n0 1:0.5\n' >same.svm
    ends 1 'the target was not met' "${run[@]}" --data-train=libsvm:same.svm --data-test=libsvm:same.svm --stop-target=0.99
    never_restarted
    ends 0 'done' "${run[@]}" --save=good.st
    cp good.st kept.st
    ends 1 'the target was not met' "${run[@]}" --data-train=libsvm:same.svm --data-test=libsvm:same.svm --stop-target=0.99 --save=good.st
    cmp -s good.st kept.st || fail 'a run that failed has replaced a good model'
}
wrong_usage() { ends 64 'unknown option' "${run[@]}" --no-such-option=1; }
bad_data() {
    printf 'x\n' >bad.svm
    ends 65 'bad.svm' "${run[@]}" --data-train=libsvm:bad.svm
    never_restarted
}
no_input() {
    ends 66 'none.svm' "${run[@]}" --data-train=libsvm:none.svm
    never_restarted
}
nobody_there() { ends 69 '' "$bin/psd-worker" "${model[@]}" "${nobody[@]}"; }
# endless RUN OPTION...: a job that does not end by itself, in the background as $psdctl, trains.
endless() {
    local i run_dir=$1
    shift
    "${run[@]}" --stop-steps=0 --stop-epochs=1000000000 --run-dir="$run_dir" "$@" >said 2>&1 &
    psdctl=$!
    for ((i = 0; i < 3000; i++)); do
        ! grep -qs '"outcome": "running"' "$run_dir/summary.json" || return 0
        kill -0 "$psdctl" 2>/dev/null || fail "it ended: $(cat said)"
        sleep 0.1
    done
    fail "it does not train: $(cat said)"
}
# ended CODE: so does $psdctl.
ended() {
    local code=0
    wait "$psdctl" || code=$?
    [ $code = "$1" ] || fail "ended with $code, not $1: $(cat said)"
}
# By itself, a program that is told to stop ends; under psdctl run it is started again, and the job goes on.
# PID SIGNAL: whether the process has said what it does then.
catches() {
    local caught
    caught=$(sed -n 's/^SigCgt:[[:space:]]*//p' "/proc/$1/status" 2>/dev/null) || return 1
    [ -n "$caught" ] && [ $((0x$caught >> ($(kill -l "$2") - 1) & 1)) -eq 1 ]
}
newest_checkpoint() { find children-ck -name "MANIFEST-*" 2>/dev/null | sort | tail -n 1; }
stopped() {
    local program signal pid saved n=0 i
    endless children --checkpoint-dir=children-ck --checkpoint-every=100ms
    for program in psd-worker psd; do
        for signal in TERM INT HUP; do
            [ $program-$signal != psd-HUP ] || continue
            saved=$(newest_checkpoint)
            for ((i = 0; i < 3000; i++)); do # until it trains, whatever was started again
                [ "$(newest_checkpoint)" = "$saved" ] || break
                sleep 0.1
            done
            for ((i = 0; i < 3000; i++)); do
                pid=$(pgrep -P "$psdctl" -x $program) || pid=
                [ -z "$pid" ] || ! catches "$pid" $signal || break
                sleep 0.1
            done
            [ $program = psd-worker ] || kill -HUP "$pid" # which it takes for a request to read its allow-list
            kill -$signal "$pid"
            n=$((n + 1))
            for ((i = 0; i < 3000; i++)); do
                [ "$(grep -c 'run.restart .*ended="ended with 75' said)" -lt $n ] || break
                kill -0 "$psdctl" 2>/dev/null || fail "$program, SIG$signal: the job has ended: $(cat said)"
                sleep 0.1
            done
            [ "$(grep -c 'run.restart .*ended="ended with 75' said)" -eq $n ] || fail "$program, SIG$signal: $(cat said)"
        done
    done
    kill -TERM "$psdctl"
    ended 75
    grep -Eq '^  lives +[4-9], of worker 0; what it counted is of the last$' said || fail "$(cat said)"
    grep -Eq '^  restarted +worker 0, [3-9] times; at first it ended with 75' said || fail "$(cat said)"
}

run_stopped() {
    endless stopped
    kill -TERM "$psdctl"
    ended 75
    grep -q 'stopped early' said || fail "$(cat said)"
    ! grep -q '^\[.*: stopped' said || fail "children's words on a stop that they were told: $(cat said)"
    grep -q '"outcome": "stopped' stopped/summary.json && grep -q '"exit_code": 75' stopped/run.json || fail "$(cat stopped/*.json)"
}

# A directory has one run at a time, and what an earlier one has left there is not taken for this one's.
run_dir_taken() {
    ends 0 'done' "${run[@]}" --run-dir=again
    local first
    first=$(grep '"id"' again/run.json)
    ends 66 'none.svm' "${run[@]}" --data-train=libsvm:none.svm --run-dir=again
    ! grep -q 'loss\|sha256' said || fail "it tells the result of the run before: $(cat said)"
    ! grep -qs '"outcome": "done"' again/summary.json || fail 'the summary is that of the run before'
    grep -q '"outcome": "done"' again/summary.json.before || fail 'the result of the run before is lost'
    grep -q '"outcome": "failed"' again/run.json && grep -q '"exit_code": 66' again/run.json || fail "$(cat again/run.json)"
    [ "$first" != "$(grep '"id"' again/run.json)" ] || fail 'two runs have one id'
    endless again
    grep -q '"outcome": "running"' again/run.json && grep -q '"outcome": "running"' again/summary.json || fail "$(cat again/*.json)"
    cp said said.first
    ends 78 'another psdctl works in again' "${run[@]}" --run-dir=again
    grep -q '"outcome": "running"' again/run.json || fail 'the one that was refused has changed something'
    cp said.first said
    kill -TERM "$psdctl"
    ended 75
}

# No room for the last checkpoint, on a disk of 64 KiB of our own.
checkpoint_lost() {
    if ! unshare -Urm true 2>/dev/null; then
        echo 'ends: checkpoint_lost is left out: this machine permits no mounts of our own'
        return
    fi
    mkdir ck64
    local code=0
    unshare -Urm bash -c 'mount -t tmpfs -o size=64k none ck64
        (for ((i = 0; i < 3000; i++)); do
            ls ck64/MANIFEST-* >/dev/null 2>&1 && break
            sleep 0.1
        done
        while [ -e ck64 ] && kill -0 $$ 2>/dev/null; do
            dd if=/dev/zero bs=512 of=ck64/fill oflag=append conv=notrunc 2>/dev/null
            sleep 0.05
        done) &
        filler=$!
        "$@" >said 2>&1
        code=$?
        kill $filler
        exit $code' - "${run[@]}" --stop-steps=30000 --checkpoint-dir=ck64 --checkpoint-every=1h --run-dir=lost || code=$?
    [ $code = 74 ] || fail "ended with $code: $(cat said)"
    grep -q 'the last checkpoint could not be made' said && ! grep -q ': done' said || fail "$(cat said)"
    grep -q '"exit_code": 74' lost/run.json || fail "$(cat lost/run.json)"
}
# By hand: two servers of which each has a directory of its own.
first_checkpoint() {
    local servers=() i worker code=0
    for i in 0 1; do
        "$bin/psd" --insecure --servers=2 --server-index=$i --cluster-file=apart --listen=tcp://127.0.0.1:0 --status-listen=none \
            --checkpoint-dir=apart.$i --join-timeout=2s >psd.$i 2>&1 &
        servers+=($!)
    done
    "$bin/psd-worker" "${model[@]}" --cluster-file=apart --stop-steps=1000000 --progress=none >worker.out 2>&1 &
    worker=$!
    for i in 0 1; do
        code=0
        wait "${servers[$i]}" || code=$?
        [ $code = 74 ] || fail "server $i ended with $code: $(cat psd.$i)"
        grep -q 'no checkpoint could be made for .* on a file system that they share' psd.$i || fail "$(cat psd.$i)"
    done
    code=0
    wait $worker || code=$?
    [ $code = 74 ] || fail "the worker ended with $code: $(cat worker.out)"
    ! ls apart.0/MANIFEST-* 2>/dev/null || fail 'there is a checkpoint'
}
# A server by itself, as $server, with its addresses in $join and $status.
serving() {
    local i line
    : >psd.out
    "$bin/psd" --insecure --listen=tcp://127.0.0.1:0 --status-listen=127.0.0.1:0 >psd.out 2>psd.err &
    server=$!
    for ((i = 0; i < 3000; i++)); do
        line=$(cat psd.out)
        join=$(sed -n 's/.* data=\([^ ]*\) .*/\1/p' <<<"$line")
        status=$(sed -n 's/.* status=\([^ ]*\) .*/\1/p' <<<"$line")
        [ -z "$status" ] || return 0
        sleep 0.1
    done
    fail "no server: $(cat psd.err)"
}
served() {
    kill -TERM "$server"
    wait "$server" || true
}
no_answer() {
    local verb
    for verb in status 'wait --timeout=1'; do
        # shellcheck disable=SC2086
        ends 69 'no server answers' "$bin/psdctl" $verb http://127.0.0.1:1
    done
    for verb in pause resume 'drain 0' 'set optimizer.lr=1' 'checkpoint save'; do
        # shellcheck disable=SC2086
        ends 69 'no server answers' "$bin/psdctl" $verb --join=tcp://127.0.0.1:1 --timeout=1
    done
}
address_taken() {
    serving
    ends 74 "cannot listen on $join" "$bin/psd" --insecure --listen="$join" --status-listen=none
    ends 74 'status.listen: cannot serve at' "$bin/psd" --insecure --listen=tcp://127.0.0.1:0 --status-listen="${status#http://}"
    ends 74 "cannot listen on $join" "${run[@]}" --listen="$join"
    never_restarted
    served
}
file_exists() {
    ends 0 '' "$bin/psdctl" keygen twice
    ends 74 'it exists already' "$bin/psdctl" keygen twice
    ends 0 '' "${run[@]}" --checkpoint-dir=exists-ck --run-dir=exists
    mkdir exists-to
    ends 0 '' "$bin/psdctl" export --to=exists-to exists-ck
    ends 74 'exists already; add --force' "$bin/psdctl" export --to=exists-to exists-ck
    ends 0 '' "$bin/psdctl" export --force --to=exists-to exists-ck
}
not_training() {
    serving
    ends 75 'waiting' "$bin/psdctl" status "$status"
    served
}
wait_ended() {
    local code=0 waiting i
    serving
    "$bin/psdctl" wait "$status" --for=finished >wait.out 2>&1 &
    waiting=$!
    for ((i = 0; i < 3000; i++)); do # until it follows the job: without an answer it would end with 69
        ! curl -fsS "$status/metrics" | grep -q '^psd_http_requests_total{.*path="/events"} [1-9]' || break
        sleep 0.1
    done
    served
    wait "$waiting" || code=$?
    [ $code = 75 ] || fail "psdctl wait ended with $code: $(cat wait.out)"
}
one_too_many() {
    serving
    ends 76 'is one too many' "$bin/psd" --insecure --listen=tcp://127.0.0.1:0 --status-listen=none --join="$join"
    served
}
request_refused() {
    serving
    ends 76 'this is job psd' "$bin/psdctl" pause --join="$join" --job=other
    ends 76 'no worker 7' "$bin/psdctl" drain 7 --join="$join"
    ends 76 'without checkpoint.dir' "$bin/psdctl" checkpoint save --join="$join"
    served
}
# By hand: what a second worker trains on is compared with what the first does.
refused() {
    local join server worker i other
    : >psd.out
    "$bin/psd" --insecure --listen=tcp://127.0.0.1:0 --status-listen=none >psd.out 2>psd.err &
    server=$!
    for ((i = 0; i < 3000; i++)); do
        join=$(sed -n 's/.* data=\([^ ]*\).*/\1/p' psd.out)
        [ -z "$join" ] || break
        sleep 0.1
    done
    "$bin/psd-worker" "${model[@]}" --join="$join" --stop-steps=0 --stop-epochs=1000000000 --progress=none --run-dir=like >like.out 2>&1 &
    worker=$!
    for ((i = 0; i < 3000; i++)); do
        ! grep -qs running like/summary.json || break
        sleep 0.1
    done
    printf '1 1:0.5 3:1\n0 1:-0.5 3:2\n1 1:1\n0 3:2\n' >other.svm
    for other in --model-kind=linear --seed=2 --data-batch=2 --data-shuffle=false --data-train=libsvm:other.svm; do
        ends 76 'trains another model, on other data or in another order: it has model=' "$bin/psd-worker" "${model[@]}" --join="$join" "$other"
        grep -q 'the others have model=logistic rows=4 data=[0-9a-f]* batch=4 seed=1 shuffle=true' said || fail "$(cat said)"
    done
    kill -TERM "$worker"
    wait "$worker" || true
    ends 0 '' "$bin/psd-worker" "${model[@]}" --join="$join" --seed=2
    kill -TERM "$server" 2>/dev/null || true
    wait "$server" || true
}
wrong_option() {
    ends 78 'PSD_SERVERS' env PSD_SERVERS=none "${run[@]}"
    # Only the servers, who learn the model's tensors from a worker, can know this; nothing is trained before.
    ends 78 'groups: nothing* matches no tensor of the model, which has ' "${run[@]}" --servers=2 --groups='nothing*(lr_mult=0.1)' \
        --run-dir=unfit
    never_restarted
    grep -q '"step"' unfit/metrics*.jsonl 2>/dev/null && fail 'it trained'
    return 0
}
killed() {
    local child
    endless killed --restarts=0
    child=$(pgrep -P "$psdctl" -f 'psd-worker' | head -1)
    kill -9 "$child"
    ended 1
}

# A function for each END of the table (unit/test_ends).
mapfile -t every < <(sed -n 's/^END(\([a-z_]*\),.*/\1/p' "$2/common/base/ends.def")
[ ${#every[@]} -ge 15 ] || fail "the table has ${#every[@]} ways to end"
for now in "${every[@]}" eps_lost idle_workers; do "$now"; done
echo 'ends: as they should be'
