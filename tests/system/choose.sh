#!/usr/bin/env bash
# choose.sh BIN SOURCE - runs deploy/examples/choose on a table drawn by people.awk: from a baseline to a job file and a model, and
# once more, as after an interruption.
set -euo pipefail
bin=$1 source=$2
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
export PATH=$bin:$PATH
fail() { echo "choose: $*" >&2; exit 1; }

awk -v rows=600 -v seed=1 -f "$source/deploy/examples/people.awk" >people.csv
awk -v rows=300 -v seed=2 -f "$source/deploy/examples/people.awk" >people-test.csv
[ "$(cksum <people.csv)" = "$(awk -v rows=600 -v seed=1 -f "$source/deploy/examples/people.awk" | cksum)" ] || fail 'one seed draws different tables'
[ "$(head -n 1 people.csv) $(wc -l <people.csv)" = 'age,hours,job,town,income,bought 601' ] || fail "$(head -n 3 people.csv)"
grep -q ',,' people.csv || fail 'no value is missing'
{
    sed 's/epochs: 10/epochs: 4/' "$source/deploy/examples/people.yaml"
    echo 'compare: {seeds: 1, jobs: 2}'
    echo 'status.listen: none'
} >people.yaml
"$source/deploy/examples/choose" people.yaml 'adam(lr=1e-2)' >said 2>err || fail "$(cat said err)"
for step in '1. the baseline: sgd' '2. each rule' '3. Lookahead around' '4. the choice: '; do
    grep -qF "== $step" said || fail "no $step: $(cat said)"
done
choice=$(sed -n 's/^== 4. the choice: //p' said)
kept=runs/choose-people
grep -qF "optimizer: \"$choice\"" $kept/chosen.yaml || fail "the job file does not have $choice: $(cat $kept/chosen.yaml)"
grep -q '"outcome": "done"' $kept/chosen/summary.json || fail "$(cat $kept/chosen/summary.json)"
auc=$(psdctl predict $kept/chosen.yaml --weights=$kept/model.safetensors --rows=csv:people-test.csv 2>&1 >/dev/null | sed -n 's/.*auc[ =]*\([0-9.]*\).*/\1/p' | head -n 1)
awk -v auc="${auc:-0}" 'BEGIN { exit !(auc > 0.85) }' || fail "the chosen model has an auc of '$auc'"

# The second time, everything but the last run exists already.
"$source/deploy/examples/choose" people.yaml 'adam(lr=1e-2)' >again 2>err || fail "$(cat again err)"
[ ! -s $kept/tune.log ] || ! grep -q compare.done $kept/tune.log $kept/compare.log || fail 'it repeated runs'
grep -qF "== 4. the choice: $choice" again || fail "$(cat again)"
echo "choose: ok, $choice"
