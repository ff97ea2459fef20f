#!/usr/bin/env bash
# warm.sh BIN SOURCE - a job that starts with the weights and optimizer state of another job (init, init.state) gets the same bits
# as a job that was never interrupted, on any number of servers and with processes killed at its start; state that does not fit is
# refused.
set -euo pipefail
bin=$1
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"

fail() {
    echo "warm: $*" >&2
    cat said >&2
    exit 1
}

# CODE WORDS COMMAND...: the command ends with that code, and its output contains the words.
refused() {
    local code=$1 words=$2 rc=0
    shift 2
    "$@" >said 2>&1 || rc=$?
    [ "$rc" = "$code" ] || fail "ended with $rc, not $code: $*"
    grep -qF "$words" said || fail "does not print \"$words\": $*"
}

cat >job.yaml <<'END'
job: warm
servers: 2
workers: {min: 2}
model: {kind: mlp, layers: [784, 16, 10]}
data: {train: "glyphs:240", test: "glyphs:40", batch: full, shuffle: false}
eval.every: 0
status.listen: none
lease: 500ms
END

hash_of() { grep -oE '"sha256(_slow)?": *"[0-9a-f]*"' "$1/summary.json"; }

# RULE GROUPS: 7 steps, in one job and in two.
check() {
    local rule=$1 groups=$2 servers
    rm -rf whole first saved out then-*
    "$bin/psdctl" run job.yaml --optimizer="$rule" --groups="$groups" --stop-steps=7 --run-dir=whole >said 2>&1 || fail "$rule: whole"
    "$bin/psdctl" run job.yaml --optimizer="$rule" --groups="$groups" --stop-steps=4 --run-dir=first --checkpoint-dir=saved \
        >said 2>&1 || fail "$rule: first"
    "$bin/psdctl" export --optimizer --weights=fast --to=out saved >said || fail "$rule: export"
    for servers in 1 2 3; do
        "$bin/psdctl" run job.yaml --optimizer="$rule" --groups="$groups" --servers="$servers" --stop-steps=3 --run-dir="then-$servers" \
            --init=out/model.safetensors --init-state=out/optimizer_state.safetensors >said 2>&1 || fail "$rule: then on $servers"
        [ "$(hash_of whole)" = "$(hash_of "then-$servers")" ] || fail "$rule on $servers servers: the weights differ from those of one job"
    done
}
check 'lookahead(nadam(lr=0.002), k=3, pullback=pullback)' ''
check 'prodigy(d0=1e-4)' ''
check 'sfadamw(lr=0.01)' ''
check 'muon(weight_decay=0.1)' 'fc2.weight(optimizer=adafactor(lr=0.01))'
check 'adam(lr=0.002)' '*.bias(optimizer=sgd(lr=0.1, momentum=0.9)); fc1.weight(optimizer=lookahead(lion(lr=0.001), k=2))'

# Killing a process while the values travel changes nothing: verify compares every step with one process that reads the same files.
warm=(--optimizer='adam(lr=0.002)' --groups='*.bias(optimizer=sgd(lr=0.1, momentum=0.9)); fc1.weight(optimizer=lookahead(lion(lr=0.001), k=2))'
    --init=out/model.safetensors --init-state=out/optimizer_state.safetensors)
for where in wrk.sent.INIT:kill@2 srv.recv.INIT:kill@2 srv.send.INIT_WANTED:kill@3; do
    FAILPOINT=$where FAILPOINT_ONCE=$dir/fired "$bin/psdctl" verify job.yaml "${warm[@]}" --stop-steps=3 --run-dir="killed-$where" \
        --checkpoint-dir="ck-$where" >said 2>&1 || fail "$where: ended with $?"
    grep -q 'all equal to those of one process$' said || fail "$where: prints something else"
    [ -e fired ] || fail "$where: no process was killed"
    rm fired
    [ "$(hash_of whole)" = "$(hash_of "killed-$where")" ] || fail "$where: the weights differ from those of one job"
done

# The job's own checkpoint takes precedence over the files.
rm -rf saved
"$bin/psdctl" run job.yaml "${warm[@]}" --stop-steps=2 --run-dir=part --checkpoint-dir=saved >said 2>&1 || fail 'a job of two parts'
"$bin/psdctl" run job.yaml "${warm[@]}" --stop-steps=3 --run-dir=rest --checkpoint-dir=saved >said 2>&1 || fail 'its second part'
[ "$(hash_of whole)" = "$(hash_of rest)" ] || fail 'the state was used again after a checkpoint'

# Through numpy's files, as other programs write them: numbers in place of the tensors' names.
check 'lookahead(adam(lr=0.002), k=3)' ''
"$bin/psdctl" export --optimizer --weights=fast --format=npz --to=npz saved >said || fail 'export as npz'
"$bin/psdctl" import job.yaml --optimizer='lookahead(adam(lr=0.002), k=3)' --state --from=npz/optimizer_state.npz --to=state.safetensors \
    >said 2>&1 || fail 'import'
for words in 'fc1.weight: adam after 4 updates' 'state.safetensors: state of 4 tensors'; do
    grep -qx "$words" said || fail "import does not print \"$words\""
done
"$bin/psdctl" import job.yaml --groups='*.bias(optimizer=lion)' --optimizer='adam(lr=0.002)' --init-partial=true --state --from=state.safetensors \
    --to=part.safetensors >said 2>&1 || fail "import of a part: $(cat said)"
for words in 'fc1.weight: adam after 4 updates' 'fc1.bias: starts with new state' 'part.safetensors: state of 2 tensors'; do
    grep -qx "$words" said || fail "import of a part does not print \"$words\": $(cat said)"
done
for state in state.safetensors npz/optimizer_state.npz; do
    rm -rf then-2
    "$bin/psdctl" run job.yaml --optimizer='lookahead(adam(lr=0.002), k=3)' --stop-steps=3 --run-dir=then-2 --init=out/model.safetensors \
        --init-state=$state >said 2>&1 || fail "then with $state"
    [ "$(hash_of whole)" = "$(hash_of then-2)" ] || fail "the weights differ with $state"
done

# State that does not fit is refused.
adam=(job.yaml --init=out/model.safetensors --init-state=out/optimizer_state.safetensors)
refused 65 'the state of tensor fc1.weight was kept by adam, but this job trains it with adamw' "$bin/psdctl" config check "${adam[@]}" --optimizer=adamw
refused 65 'out/optimizer_state.safetensors: the state of tensor fc1.weight has slow_param, which adam does not keep' \
    "$bin/psdctl" config check "${adam[@]}" --optimizer=adam
refused 65 'exp_avg of tensor fc1.weight has 12544 elements; this job'"'"'s has 6272' \
    "$bin/psdctl" import job.yaml --state --from=state.safetensors --model-layers=784,8,10 --optimizer='lookahead(adam)'
refused 65 'the state of tensor fc1.weight was kept by adam, but this job trains it with lion' \
    "$bin/psdctl" run "${adam[@]}" --optimizer=lion --stop-steps=1 --run-dir=no
refused 65 'was kept by adam, but this job trains it with sgd' "$bin/psdctl" config check "${adam[@]}" --optimizer='lookahead(adam)' --groups='*.bias(optimizer=sgd)'
refused 65 'it has no optimizer state: its first array is fc1.weight, as a model has it' "$bin/psdctl" config check job.yaml --init=out/model.safetensors --init-state=out/model.safetensors
refused 66 'nowhere' "$bin/psdctl" config check job.yaml --init=out/model.safetensors --init-state=nowhere
refused 78 'init.state is set, but init is not' "$bin/psdctl" config check job.yaml --init-state=out/optimizer_state.safetensors

# Partial state, where that is allowed: the log names what is missing.
"$bin/psdctl" run "${adam[@]}" --optimizer='lookahead(adam(lr=0.002), k=3)' --groups='fc2.*(optimizer=sgd(momentum=0.9))' --init-partial=true \
    --stop-steps=1 --run-dir=some >said 2>&1 || fail 'some of the state'
grep -q 'state.missing.*tensors=2 fields="fc2.weight/sgd, fc2.bias/sgd"' said || fail 'the log does not name what is missing'
echo 'warm: ok'
