#!/usr/bin/env bash
# predict.sh BIN SOURCE - a model predicts as it was judged in training, rows become features as those of training did, and training
# begins with the weights and the encoding of a file.
set -euo pipefail
bin=$1 source=$(cd "$2" && pwd)
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"

fail() {
    echo "predict: $*" >&2
    exit 1
}
field() { sed -n "s/^ *\"$2\": \"\{0,1\}\([^\",]*\)\"\{0,1\},\{0,1\}\$/\1/p" "$1" | head -n 1; }
refused() { # CODE TEXT COMMAND...
    local code=0
    "${@:3}" >said 2>&1 || code=$?
    [ "$code" -eq "$1" ] || fail "${*:3} ended with $code: $(cat said)"
    grep -qF -- "$2" said || fail "${*:3} does not say '$2': $(cat said)"
}

# Age and town decide; some ages are missing.
awk 'BEGIN { srand(3); print "age,town,income"; split("Rome Oslo Bonn", t, " ");
    for (i = 0; i < 300; i++) { a = int(rand() * 60) + 20; k = int(rand() * 3) + 1;
        print (rand() < 0.1 ? "" : a) "," t[k] "," (a + 15 * k + rand() * 20 > 80 ? "high" : "low") } }' >people.csv
cat >job.yaml <<'END'
job: people
model: {kind: logistic}
optimizer: adam(lr=0.1)
data: {train: "csv:people.csv", test: "csv:people.csv", categorical: ["*"], na: mean, scale: standard}
save: people.safetensors
stop: {steps: 60}
workers: {min: 2}
progress: none
END
"$bin/psdctl" run job.yaml --run-dir=first >first.said 2>&1 || fail "$(cat first.said)"
accuracy=$(sed -n '/"test_metrics"/,/}/s/.*"accuracy": \([0-9.]*\),*/\1/p' first/summary.json)
awk "BEGIN { exit !($accuracy > 0.75) }" || fail "it has learned nothing: $accuracy"

"$bin/psdctl" predict job.yaml --to=out.csv 2>said || fail "$(cat said)"
[ "$(head -n 1 out.csv)" = prediction,p_high,p_low ] || fail "$(head -n 1 out.csv)"
[ "$(wc -l <out.csv)" -eq 301 ] || fail "$(wc -l <out.csv) lines"
right=$(paste -d, out.csv people.csv | awk -F, 'NR > 1 && $1 == $6 { n++ } NR > 1 && ($2 + $3 < 0.999999 || $2 + $3 > 1.000001) { exit 1 } END { print n / 300 }') ||
    fail 'chances do not add up to 1'
awk "BEGIN { d = $right - $accuracy; exit !(d < 1e-5 && d > -1e-5) }" || fail "$right of the predictions are right, and training said $accuracy"
grep -q '^psdctl predict: 300 rows: accuracy ' said || fail "$(cat said)"

# Columns in any order, no label, a new word; the training set is not needed.
printf 'town,id,age\nParis,1,30\nRome,2,\n' >new.csv
mv people.csv gone.csv
"$bin/psdctl" predict job.yaml --rows=csv:new.csv --classes=likeliest >few.csv 2>said || fail "$(cat said)"
[ "$(head -n 1 few.csv)/$(wc -l <few.csv)" = prediction,p/3 ] || fail "$(cat few.csv)"
grep -q 'words that did not occur in training, and so have no feature: 1$' said || fail "$(cat said)"
for rows in gone new; do # many and few bytes: the first are written at once, the last when the output is flushed
    code=0
    "$bin/psdctl" predict job.yaml --rows=csv:$rows.csv >/dev/full 2>said || code=$?
    [ "$code" -eq 74 ] || fail "with a full disk it ended with $code: $(cat said)"
    [ "$(cat said)" = 'psdctl predict: cannot write the predictions to standard output' ] || fail "$(cat said)"
done
mv gone.csv people.csv
printf 'town,id\nRome,1\n' >less.csv
refused 65 "less.csv:1: no column is named 'age', which the model was trained on; add it" "$bin/psdctl" predict job.yaml --rows=csv:less.csv
printf '1 1:2\n' >rows.svm
refused 65 'the model was trained on the columns of a table' "$bin/psdctl" predict job.yaml --rows=libsvm:rows.svm
refused 65 'tensor fc1.weight is [1, 4] there, but [2, 4] in the model' "$bin/psdctl" predict job.yaml --rows=csv:new.csv --model-kind=softmax
refused 64 "--rows: data set 'new.csv': write FORMAT:FILE with a format of" "$bin/psdctl" predict job.yaml --rows=new.csv
refused 64 'such as csv:new.csv' "$bin/psdctl" predict job.yaml --rows=new.csv
refused 64 'a model is missing' "$bin/psdctl" predict job.yaml --rows=csv:new.csv --save=
refused 66 'nowhere.safetensors' "$bin/psdctl" predict job.yaml --rows=csv:new.csv --weights=nowhere.safetensors
refused 65 '1 rows have a missing value' "$bin/psdctl" predict job.yaml --rows=csv:new.csv --data-na=skip

# Exported, a checkpoint in the run's directory has the encoding of the run; the training set is not needed. So has one elsewhere, with
# the file's name; a file that is none is refused.
"$bin/psdctl" run job.yaml --run-dir=whole --checkpoint-dir=whole/cp >said 2>&1 || fail "$(cat said)"
"$bin/psdctl" export --to=whole whole/cp >/dev/null
mv whole/cp far
"$bin/psdctl" export --to=far --encoding=whole/encoding.json far >/dev/null
cmp whole/model.safetensors far/model.safetensors || fail 'an encoding that is named is another than one that is found'
printf '{"schema":"psd.encoding/1","columns":[]}' >none.json
refused 65 "none.json: the model's encoding (psd.encoding) is damaged: it has no columns" \
    "$bin/psdctl" export --force --to=far --encoding=none.json far
refused 66 'nowhere.json' "$bin/psdctl" export --force --to=far --encoding=nowhere.json far
mv people.csv gone.csv
"$bin/psdctl" predict job.yaml --rows=csv:gone.csv --weights=whole/model.safetensors --to=exported.csv 2>said || fail "$(cat said)"
mv gone.csv people.csv
cmp out.csv exported.csv || fail 'an exported checkpoint with the encoding predicts otherwise'

# A run in the same directory on other data leaves no old encoding there.
"$bin/psdctl" run job.yaml --run-dir=whole --data-train=glyphs:200 --data-test=glyphs:100 --data-categorical= --data-scale=none \
    --model-kind=softmax --save= --stop-steps=2 >said 2>&1 || fail "$(cat said)"
[ ! -e whole/encoding.json ] || fail 'the encoding of an earlier run is still there'

# A model without an encoding predicts by its training set.
"$bin/psdctl" run job.yaml --run-dir=kept --checkpoint-dir=kept.cp >said 2>&1 || fail "$(cat said)"
"$bin/psdctl" export kept.cp >/dev/null
"$bin/psdctl" predict job.yaml --weights=model.safetensors --to=other.csv 2>said || fail "$(cat said)"
cmp out.csv other.csv || fail 'an exported checkpoint of the same job predicts otherwise'
mv people.csv gone.csv
refused 66 "so the job's training set is needed (psdctl export --encoding=run.dir/encoding.json describes them)" \
    "$bin/psdctl" predict job.yaml --rows=csv:new.csv --weights=model.safetensors
mv gone.csv people.csv

# Training goes on from a file: with its weights, and its encoding, whatever the new rows' means are.
awk -F, 'NR == 1 || NR > 200 { print $3 "," $1 "," $2 }' people.csv >later.csv
"$bin/psdctl" run job.yaml --init=people.safetensors --data-train=csv:later.csv --save=later.safetensors --run-dir=later >said 2>&1 || fail "$(cat said)"
[ "$(field later/summary.json sha256_initial)" = "$(field first/summary.json sha256)" ] || fail 'it does not begin where the other ended'
encoding() { head -c 8000 "$1" | grep -ao '"psd.encoding":"\([^"\\]\|\\.\)*"'; }
[ "$(encoding later.safetensors)" = "$(encoding people.safetensors)" ] || fail 'it has learned another encoding'
refused 65 'tensor fc1.weight is [1, 4] there, but [2, 4] in the model' "$bin/psdctl" config check job.yaml --save= --init=people.safetensors --model-kind=softmax
refused 66 'nowhere' "$bin/psdctl" config check job.yaml --init=nowhere

# Options that give a column another role than it had in the model's training are refused, for training and for prediction.
cure='leave it out, or start without init'
warm=("$bin/psdctl" config check job.yaml --init=people.safetensors)
refused 78 "--data-label-column: data.label_column is town, but the model in people.safetensors was trained with income; $cure" "${warm[@]}" --data-label-column=town
refused 78 "data.label_column is nothing, but the model" "${warm[@]}" --data-label-column=nothing
refused 78 "--data-weight-column: data.weight_column names age, but the model in people.safetensors was trained with it as a feature; $cure" "${warm[@]}" --data-weight-column=age
refused 78 "--data-drop: data.drop names town, but the model in people.safetensors was trained with it as a feature; $cure" "${warm[@]}" --data-drop='id;town'
refused 78 "--data-drop: data.drop names income, but the model in people.safetensors was trained with it as the label; $cure" "${warm[@]}" --data-drop=income
# Columns that are named must be there, as without a model; a weight may be named by its number, too.
refused 78 "people.csv: no column is named 'nope'; set data.drop to" "${warm[@]}" --data-drop=nope
refused 78 "people.csv: no column is named 'nope'; set data.weight_column to" "${warm[@]}" --data-weight-column=nope
refused 78 "people.csv: no column is named 'nope'; set data.categorical to" "${warm[@]}" --data-categorical=nope
refused 78 'people.csv: data.weight_column is 99, but the columns are 0 to ' "${warm[@]}" --data-weight-column=99
printf 'id,age,town,income,often\n1,30,Rome,low,0\n2,40,Oslo,high,0\n' >often.csv
refused 65 'the weights of all 2 training rows are 0' "${warm[@]}" --data-train=csv:often.csv --data-weight-column=4 --data-batch=2
refused 78 'data.label_column is town, but the model was trained with income; leave it out' "$bin/psdctl" predict job.yaml --data-label-column=town
"${warm[@]}" --data-label-column=income >said 2>&1 || fail "the model's own label is refused: $(cat said)"
"$bin/psdctl" predict job.yaml --data-label-column=income --data-drop=id --to=same.csv 2>said || fail "$(cat said)"
cmp out.csv same.csv || fail 'options that agree with the model change its predictions'
printf 'town,age\nRome,30\n' >unlabelled.csv
refused 65 "no column is named 'income', as the label is in the model's training set; add it, or rename the label's column" "${warm[@]}" --data-train=csv:unlabelled.csv

# Patience ends the job for both workers after the same step, and every step is that of one process.
"$bin/psdctl" verify job.yaml --save= --data-validation=0.2 --eval-metric=auc --stop-steps=2000 --stop-patience=3 --servers=2 --run-dir=patient >said 2>&1 || fail "$(cat said)"
grep -q ' hashes, all equal to those of one process$' said || fail "$(cat said)"
grep -q 'stop.patience' patient/logs/worker-1.log || fail "worker 1 did not lose patience: $(cat patient/logs/worker-1.log)"
[ "$(field patient/summary.json steps)" -lt 2000 ] || fail 'patience did not end the job'
[ "$(field patient/summary.json steps)" = "$(field patient/summary-1.json steps)" ] || fail 'the workers stopped after different steps'

# Weights of other names, in the order of torch's layers: what is imported predicts the same.
"$bin/psdctl" import job.yaml --from=people.safetensors --to=again.safetensors >said 2>&1 || fail "$(cat said)"
grep -q '^fc1.weight \[1, 4\]: fc1.weight$' said || fail "$(cat said)"
sed 's/fc1\.weight/0.weight__/; s/fc1\.bias/0.bias__/' people.safetensors >torch.safetensors # names of the same length
"$bin/psdctl" import job.yaml --from=torch.safetensors --to=torchs.safetensors >said 2>&1 || fail "$(cat said)"
grep -q '^fc1.bias \[1\]: 0.bias__$' said || fail "$(cat said)"
"$bin/psdctl" predict job.yaml --weights=torchs.safetensors --to=torchs.csv 2>said || fail "$(cat said)"
cmp out.csv torchs.csv || fail 'imported weights predict otherwise'
refused 65 "array 'fc1.weight' is [1, 4], but fc1.weight of the job's model is [2, 4]" \
    "$bin/psdctl" import job.yaml --from=people.safetensors --model-kind=softmax --to=no.safetensors
refused 65 "array '0.weight' is [2, 3], but fc1.weight of the job's model is [1, 4]" \
    "$bin/psdctl" import job.yaml --from="$source/tests/fuzz/corpus/fuzz_npz/stored" --to=no.safetensors
refused 64 'a file is missing' "$bin/psdctl" import job.yaml
cp out.csv model.safetensors # which import would write without --to
refused 74 'model.safetensors exists already; add --force to replace it, or --to to name another file' "$bin/psdctl" import job.yaml --from=torch.safetensors
cmp out.csv model.safetensors || fail 'a refused import has replaced a file'
"$bin/psdctl" import job.yaml --from=torch.safetensors --force >said 2>&1 || fail "$(cat said)"
cmp torchs.safetensors model.safetensors || fail 'import does not write model.safetensors'
"$bin/psdctl" import job.yaml --from=torch.safetensors --to=/dev/null >said 2>&1 || fail "a device is no file to lose: $(cat said)"

# Of a wider model only what fits, where that is allowed.
mlp=(--model-kind=mlp --data-train=glyphs:200 --data-test=glyphs:100 --data-categorical= --data-scale=none --stop-steps=3)
"$bin/psdctl" run job.yaml "${mlp[@]}" --model-layers=784,16,10 --save=a.safetensors --run-dir=a >said 2>&1 || fail "$(cat said)"
refused 65 'tensor fc2.weight is [10, 16] there, but [20, 16] in the model' \
    "$bin/psdctl" config check job.yaml "${mlp[@]}" --model-layers=784,16,20,10 --init=a.safetensors
"$bin/psdctl" run job.yaml "${mlp[@]}" --model-layers=784,16,20,10 --init=a.safetensors --init-partial=true --run-dir=b >said 2>&1 || fail "$(cat said)"
grep -q 'names="fc2.weight, fc2.bias, fc3.weight, fc3.bias"' said || fail "it does not say what is missing: $(cat said)"

# Layers have numbers in torch's names: 10 comes after 8.
"$bin/psdctl" run job.yaml "${mlp[@]}" --model-layers=784,8,8,8,8,8,10 --save=deep.safetensors --run-dir=c >said 2>&1 || fail "$(cat said)"
cp deep.safetensors torch.safetensors
for layer in 1 2 3 4 5; do
    sed -i "s/fc$layer\.weight/$((2 * layer - 2)).weight__/; s/fc$layer\.bias/$((2 * layer - 2)).bias__/" torch.safetensors
done
sed -i 's/fc6\.weight/10.weight_/; s/fc6\.bias/10.bias_/' torch.safetensors
"$bin/psdctl" import job.yaml "${mlp[@]}" --model-layers=784,8,8,8,8,8,10 --from=torch.safetensors --to=torchs.safetensors --force >said 2>&1 || fail "$(cat said)"
grep -q '^fc6.weight \[10, 8\]: 10.weight_$' said || fail "$(cat said)"
for model in deep torchs; do
    "$bin/psdctl" predict job.yaml "${mlp[@]}" --model-layers=784,8,8,8,8,8,10 --weights=$model.safetensors --to=$model.csv 2>said || fail "$(cat said)"
done
cmp deep.csv torchs.csv || fail 'imported weights of six layers predict otherwise'
refused 65 "none of its 12 arrays is fc7.weight; the job's model has 14 tensors, fc1.weight to fc7.bias: add what is missing" \
    "$bin/psdctl" import job.yaml "${mlp[@]}" --model-layers=784,8,8,8,8,8,8,10 --from=deep.safetensors --to=no.safetensors
echo 'predict: ok'
