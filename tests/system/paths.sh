#!/usr/bin/env bash
# paths.sh BIN SOURCE - paths in a job file count from its folder, whichever program reads it, in any directory; those of flags from the
# working directory; those of a job file on standard input, too.
set -euo pipefail
bin=$1 source=$2
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
fail() { echo "paths: $*"; exit 1; }
mkdir "$dir/jobs" "$dir/jobs/data" "$dir/elsewhere"
cp "$source/deploy/examples/linear.csv" "$dir/jobs/data"
cat >"$dir/jobs/job.yaml" <<'END'
job: paths
workers: {min: 2}
optimizer: "sgd(lr=0.3)"
model: {kind: linear}
data: {train: "csv:data/linear.csv", test: "csv:data/linear.csv", label_column: price, batch: full}
stop: {steps: 20}
save: model.st
run: {dir: run}
checkpoint: {dir: ck}
END
any=(--listen=tcp://127.0.0.1:0 --status-listen=127.0.0.1:0 --progress=none)
must() { timeout 120 "$@" >"$dir/said" 2>&1 || fail "$*: $? $(cat "$dir/said")"; }
gone() { rm -rf "$dir"/jobs/{model.st,run,ck}; }
left() {
    for file in jobs/model.st jobs/run/summary.json jobs/ck; do [ -e "$dir/$file" ] || fail "$1: no $file"; done
    [ -z "$(ls "$dir/elsewhere")" ] || fail "$1 left $(ls "$dir/elsewhere") where it was started"
    gone
}

cd "$dir/elsewhere"
for job in "$dir/jobs/job.yaml" ../jobs/job.yaml ../elsewhere/../jobs/job.yaml; do
    must "$bin/psdctl" config check "$job"
    must "$bin/psdctl" run "$job" "${any[@]}"
    left "run $job"
done
cd "$dir/jobs"
for job in job.yaml ./job.yaml; do
    must "$bin/psdctl" run $job "${any[@]}"
    left "run $job"
done

# A flag and a variable count from where one is.
cd "$dir/elsewhere"
must "$bin/psdctl" run ../jobs/job.yaml "${any[@]}" --save=flag.st
[ -e flag.st ] && [ ! -e ../jobs/model.st ] || fail 'a flag does not count from where one is'
rm flag.st
gone
PSD_SAVE=variable.st must "$bin/psdctl" run ../jobs/job.yaml "${any[@]}"
[ -e variable.st ] || fail 'a variable does not count from where one is'
rm variable.st
gone

# What is shown is what the system is asked for.
"$bin/psdctl" config show ../jobs/job.yaml >"$dir/said"
grep -q '^data.train = csv:../jobs/data/linear.csv ' "$dir/said" && grep -q '^checkpoint.dir = ../jobs/ck ' "$dir/said" ||
    fail "config show: $(cat "$dir/said")"

# The other verbs that read a job file.
must "$bin/psdctl" doctor ../jobs/job.yaml "${any[@]:0:2}"
sed '/^save:/d; /^run:/d; /^checkpoint:/d' ../jobs/job.yaml >../jobs/plain.yaml
must "$bin/psdctl" verify ../jobs/plain.yaml "${any[@]}" --run-dir="$dir/verified"
must "$bin/psdctl" compare ../jobs/plain.yaml --run-dir="$dir/compared" --seeds=1 --optimizers 'sgd(lr=0.3)' 'sgd(lr=0.1)'
cd "$dir/jobs" # the same comparison from elsewhere is the same job
must "$bin/psdctl" compare plain.yaml --run-dir="$dir/compared" --seeds=1 --optimizers 'sgd(lr=0.3)' 'sgd(lr=0.1)'

# A host that starts in another directory.
cat >"$dir/shell" <<'END'
#!/bin/sh
cd / && shift && exec sh -c "$*"
END
chmod +x "$dir/shell"
printf 'localhost servers=1 workers=2 address=127.0.0.1\n' >"$dir/jobs/hosts"
printf 'hostfile: hosts\n' >>job.yaml
cd "$dir/elsewhere"
must "$bin/psdctl" launch ../jobs/job.yaml --remote-shell="$dir/shell" --status-listen=127.0.0.1:0 --progress=none
left launch

# A job file that comes by a pipe can be read once, and counts from where one is.
cd "$dir/jobs"
for name in - /dev/stdin; do
    timeout 120 "$bin/psdctl" run "$name" "${any[@]}" <job.yaml >"$dir/said" 2>&1 || fail "run $name <file: $(cat "$dir/said")"
    left "run $name <file"
    # shellcheck disable=SC2002 # a pipe is what is tried
    cat job.yaml | timeout 120 "$bin/psdctl" run "$name" "${any[@]}" >"$dir/said" 2>&1 || fail "run $name: $(cat "$dir/said")"
    left "run $name"
done
must "$bin/psdctl" run <(cat job.yaml) "${any[@]}"
left 'run <(...)'
code=0
"$bin/psdctl" verify - <plain.yaml >"$dir/said" 2>&1 || code=$?
[ "$code" = 0 ] || grep -q 'must read the job file twice' "$dir/said" || fail "verify -: $code $(cat "$dir/said")"

# The examples work from anywhere.
cd "$dir/elsewhere"
must "$bin/psdctl" config check "$source/deploy/examples/linear.yaml"
must "$bin/psdctl" run "$source/deploy/examples/linear.yaml" "${any[@]}" --run-dir="$dir/example"
echo 'paths: as they should be'
