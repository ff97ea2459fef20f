#!/usr/bin/env bash
# tune.sh BIN SOURCE - psdctl tune chooses rates by range tests and short runs, in a third of a grid's steps; an interrupted search
# continues to the same result, and the job file that it writes trains.
set -euo pipefail
bin=$1
dir=$(mktemp -d)
trap 'kill "${job-}" 2>/dev/null || true; wait; rm -rf "$dir"' EXIT
cd "$dir"

fail() {
    echo "tune: $*" >&2
    exit 1
}

cat >job.yaml <<'END'
job: small
model: {kind: softmax}
data: {train: "glyphs:3000", test: "glyphs:300", batch: 20}
stop: {epochs: 3}
status.listen: none
model.layers: [784, 10]
compare: {seeds: 1, jobs: 2, optimizers: ["sgd(lr=0.5)", "adam(lr=1e-2)"]}
END
"$bin/psdctl" tune job.yaml --progress=none --run-dir=one >said 2>err || fail "$(cat err)"
[ "$(grep -c '^range .* of 9 rates kept: the loss falls from .* on and ' said)" -eq 2 ] || fail "no range test of each rule: $(cat said)"
grep -q '^range .* sgd(lr=50) .* cut by the range test: the loss diverges at ' said || fail "a rate of 50 was not cut: $(cat said)"
[ "$(grep -cE '^(range|[12]) .* cut( by the range test)?: ' said)" -eq 14 ] || fail "9 rates become 3, and then 2, of 2 rules: $(cat said)"
[ "$(grep -cE '^[12] .* kept(: the best|(: | for the last round: )next below the best|: the best of the lower rates)?$' said)" -ge 10 ] || fail "$(cat said)"
grep -q 'cut by the range test: the loss diverges at ' one/report.html || fail 'the page does not say what the range tests cut'
grep -q '^chosen: ' said || fail "$(cat said)"
# 2700 rows are trained on, in 135 steps an epoch: the grid would make 18 runs of 405 steps.
steps=$(cat one/runs/*/summary.json | sed -n 's/^ *"steps": \([0-9]*\),*/\1/p' | awk '{ n += $1 } END { print n }')
[ "$steps" -le $((18 * 405 / 3)) ] || fail "$steps steps are more than a third of the grid's $((18 * 405))"
grep -qx "$steps steps; the whole grid would take $((18 * 405))" said || fail "it counts other steps than $steps: $(cat said)"
runs=$(find one/runs -maxdepth 1 -name '*seed1' | wc -l)

# Interrupted in the range tests, and in the middle, it continues from there, and finds the same.
for made in 1 8; do
    "$bin/psdctl" tune job.yaml --compare-jobs=1 --progress=none --run-dir=two >/dev/null 2>err &
    job=$!
    for ((i = 0; i < 1200; i++)); do
        [ "$(find two/runs -maxdepth 1 -name '*seed1' 2>/dev/null | wc -l)" -lt "$made" ] || break
        sleep 0.05
    done
    kill -INT "$job"
    code=0
    wait "$job" || code=$?
    [ "$code" -eq 75 ] || fail "interrupted, it ended with $code: $(cat err)"
    grep -qE '^psdctl tune: [0-9]+ of [0-9]+ runs of (the range tests|round [123]) are kept; continue with --run-dir=two$' err || fail "$(cat err)"
done
before=$(find two/runs -maxdepth 1 -name '*seed1' | wc -l)
"$bin/psdctl" tune job.yaml --progress=none --run-dir=two >said 2>err || fail "$(cat err)"
[ "$(grep -c '^compare.done' err)" -eq $((runs - before)) ] || fail "it made runs again: $(cat err)"
cmp one/tune.json two/tune.json || fail 'two searches with one seed differ'

# Rules on the command line stand in one text or in several words.
for rules in "--optimizers=sgd(lr=0.5);adam(lr=1e-2)" "--optimizers sgd(lr=0.5) adam(lr=1e-2)"; do
    # shellcheck disable=SC2086
    "$bin/psdctl" tune job.yaml --progress=none --run-dir=one $rules >/dev/null 2>err || fail "$rules: $(cat err)"
    ! grep -q '^compare.done' err || fail "$rules: it made runs again: $(cat err)"
done

# What it writes is a job.
"$bin/psdctl" config check one/tuned.yaml || fail 'config check refuses the job file that it wrote'
chosen=$(sed -n 's/^ "choice": "\(.*\)",$/\1/p' one/tune.json)
"$bin/psdctl" config show one/tuned.yaml >shown
grep -qF "optimizer = $chosen" shown || fail "tuned.yaml has another optimizer than $chosen"
"$bin/psdctl" run one/tuned.yaml --progress=none --run-dir=run >said 2>&1 || fail "$(cat said)"

# From a table in a directory that only the job file knows, too; paths are those of the job.
mkdir jobs
seq 200 | awk '{ x = ($1 * 7) % 11 / 11 - 0.5; print x "," (x > 0) }' >jobs/table.csv
cat >jobs/table.yaml <<'END'
data: {train: "csv:table.csv", header: false, batch: 20}
model: {kind: logistic}
stop: {epochs: 20}
status.listen: none
save: model.safetensors
compare: {seeds: 1, jobs: 2, optimizers: ["sgd(lr=5)"]}
END
"$bin/psdctl" tune jobs/table.yaml --progress=none --run-dir=jobs/search >said 2>err || fail "$(cat err)"
(cd / && "$bin/psdctl" run "$dir/jobs/search/tuned.yaml" --progress=none --run-dir="$dir/table") >said 2>&1 || fail "$(cat said)"
[ -s jobs/model.safetensors ] || fail 'the model is not where the job file said'
! grep -qE '^(progress|run\.dir|compare\.)' jobs/search/tuned.yaml || fail "options of the search are in the job file: $(cat jobs/search/tuned.yaml)"

# With three rates there is no range test, nor is there one of a rule that finds its own rate, or has two rates: all are trained, and two of
# each for the whole job.
"$bin/psdctl" tune jobs/table.yaml --lr-sweep=0.3,1,3 --progress=none --run-dir=few >said 2>err \
    --optimizers 'prodigy' 'sgd(lr=1)' || fail "three rates: $(cat err)"
[ "$(grep -c '^range .* no range test: there are few rates$' said)" -eq 2 ] || fail "three rates: $(cat said)"
[ "$(grep -c '^1 .*prodigy' said) $(grep -c '^1 .*sgd' said)" = '3 3' ] || fail "three rates are not three runs: $(cat said)"
[ "$(find few/runs -maxdepth 1 -name '*seed1' | wc -l)" -eq 10 ] || fail "three rates: other runs than 3 and 2 of each: $(ls few/runs)"
grep -q '^chosen: ' said || fail "three rates: $(cat said)"
"$bin/psdctl" tune job.yaml --lr-sweep=0.1,1,10,100 --stop-epochs=1 --progress=none --run-dir=own >said 2>err \
    --model-kind=mlp "--model-layers=784,8,10" --optimizers 'prodigy' 'muon(lr=0.02)' || fail "rates of their own: $(cat err)"
grep -q '^range .*prodigy.* no range test: it finds its own rate$' said || fail "prodigy: $(cat said)"
grep -q '^range .*muon.* no range test: some tensors have a rate of their own$' said || fail "muon: $(cat said)"
[ "$(grep -c '^1 .*prodigy' said) $(grep -c '^1 .*muon' said)" = '4 4' ] || fail "not all rates are trained: $(cat said)"
chosen=$(sed -n 's/^ "choice": "\(.*\)",$/\1/p' own/tune.json)
"$bin/psdctl" config show own/tuned.yaml >shown
grep -qF "optimizer = $chosen" shown || fail "tuned.yaml has another optimizer than $chosen"

# In asp one worker's runs can be compared, several workers' cannot; the search says so before it trains.
"$bin/psdctl" tune jobs/table.yaml --sync-mode=asp --lr-sweep=1,10 --progress=none --run-dir=asp >said 2>err || fail "asp: $(cat err)"
grep -q '^chosen: ' said || fail "asp: $(cat said)"
code=0
"$bin/psdctl" tune jobs/table.yaml --sync-mode=asp --workers-min=2 --run-dir=refused 2>err || code=$?
[ "$code" -eq 78 ] || fail "in asp with two workers it ended with $code: $(cat err)"
grep -q '^psdctl tune: in asp, 2 workers get other rows in each run' err || fail "$(cat err)"
[ ! -e refused ] || fail 'it began although it refused'

code=0
"$bin/psdctl" tune job.yaml --lr-sweep=1 --run-dir=three 2>err || code=$?
[ "$code" -eq 78 ] || fail "one rate ended with $code: $(cat err)"
grep -q 'a search needs more than one learning rate' err || fail "$(cat err)"

# A rate that cannot be tried is cut, and the search ends with the code of that run although the others succeed.
mkdir failing
cp "$bin/psdctl" "$bin/psd-worker" failing
printf '#!/bin/sh\ncase "$*" in *"sgd(lr=50,"* | *"sgd(lr=50)"*) exit 71 ;; esac\nexec %s/psd "$@"\n' "$bin" >failing/psd
chmod +x failing/psd
code=0
failing/psdctl tune jobs/table.yaml --lr-sweep=0.1,1,10 --progress=none --run-dir=four >said 2>err || code=$?
[ "$code" -eq 71 ] || fail "with a rate that fails it ended with $code: $(cat err)"
grep -q '^compare.failed .*"sgd(lr=50)".* code=71 ' err || fail "$(cat err)"
grep -q '^chosen: ' said || fail "$(cat said err)"

# A rule that fails with a seed is not chosen, and the job file of an earlier choice goes.
"$bin/psdctl" tune jobs/table.yaml --lr-sweep=0.1,1 --progress=none --run-dir=five >said 2>err || fail "$(cat err)"
[ -s five/tuned.yaml ] || fail 'no job file'
cp "$bin/psd" failing/psd
printf '#!/bin/sh\ncase "$*" in *--seed=2*) exit 71 ;; esac\nexec %s/psd-worker "$@"\n' "$bin" >failing/psd-worker
code=0
failing/psdctl tune jobs/table.yaml --lr-sweep=0.1,1 --seeds=2 --progress=none --restarts=0 --run-dir=five >said 2>err || code=$?
[ "$code" -eq 71 ] || fail "with a seed that fails it ended with $code: $(cat err)"
grep -q '^psdctl tune: no rule is chosen, because none succeeded with every seed: of those of sgd(lr=.*), the best, 1 of 2 failed; widen ' err || fail "$(cat err)"
[ ! -e five/tuned.yaml ] || fail 'the job file has a rule that failed with a seed'
! grep -q '^chosen: ' said || fail "$(cat said)"
echo 'tune: ok'
