#!/usr/bin/env bash
# outputs.sh BIN SOURCE - where results go: over links, to devices and FIFOs, which stay what they are; and programs that are
# started with descriptors closed.
set -euo pipefail
bin=$1
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
fail() { echo "outputs: $*"; exit 1; }

printf '1 1:0.5 3:1\n0 1:-0.5 3:2\n1 1:1\n0 3:1\n' >gap.svm
job=(--insecure --listen=tcp://127.0.0.1:0 --status-listen=127.0.0.1:0 --progress=none --model-kind=logistic
     --data-train=libsvm:gap.svm --data-batch=full --stop-steps=3)
train() { timeout 600 "$bin/psdctl" run "${job[@]}" "$@" >said 2>&1 || fail "run $*: $? $(cat said)"; }
same() { cmp -s plain.st "$1" || fail "$1 is not the model"; }

train --save=plain.st
[ -f plain.st ] || fail 'no model'

# A link is followed, whether or not its target is there, and stays.
mkdir sub
ln -s sub/target.st link.st
for _ in there missing; do
    train --save=link.st
    [ -L link.st ] || fail 'the link is gone'
    same sub/target.st
done

# A device and a FIFO stay, and get it.
ln -s /dev/null hole
train --save=hole --trace=/dev/null
[ -L hole ] || fail 'the link to the device is gone'
train --save=/dev/null
[ -c /dev/null ] || fail '/dev/null is gone'
mkfifo pipe
cat pipe >read.st &
train --save=pipe
wait $!
[ -p pipe ] || fail 'the FIFO is gone'
same read.st

# No output replaces a file that is read, whatever path leads to it, and none another output.
refused() { # CODE SENTENCE FILE COMMAND...
    local code=0
    cp "$3" before
    "${@:4}" >said 2>&1 || code=$?
    [ "$code" = "$1" ] || fail "${*:4} ended with $code, not $1: $(cat said)"
    grep -qF -- "$2; name another file" said || fail "${*:4}: $(cat said)"
    cmp -s before "$3" || fail "${*:4} has changed $3"
}
ln -s ../gap.svm sub/soft.svm
ln gap.svm sub/hard.svm
printf 'model: {kind: logistic}\ndata: {train: "libsvm:gap.svm", batch: full}\nstop: {steps: 3}\n' >job.yaml
for path in gap.svm ./gap.svm sub/../gap.svm sub/soft.svm sub/hard.svm; do
    for output in save trace; do
        refused 78 "--$output: $output would replace data.train, gap.svm" gap.svm "$bin/psdctl" run "${job[@]}" --$output=$path
    done
done
refused 78 'save would replace data.train, gap.svm' gap.svm "$bin/psd-worker" "${job[@]:4}" --save=gap.svm
refused 78 'save would replace data.test, gap.svm' gap.svm \
    "$bin/psdctl" run "${job[@]}" --data-train=glyphs:100 --data-test=libsvm:gap.svm --save=gap.svm
refused 78 'save would replace the job file, job.yaml' job.yaml "$bin/psdctl" run job.yaml --insecure --save=./job.yaml
"$bin/psdctl" config check "${job[@]}" --init=plain.st --save=plain.st >said 2>&1 || fail "training cannot go on in a file: $(cat said)"
refused 78 'trace would replace init, plain.st' plain.st "$bin/psdctl" run "${job[@]}" --init=plain.st --trace=plain.st
refused 78 'save would replace trace, ./new' gap.svm "$bin/psdctl" run "${job[@]}" --save=new --trace=./new
[ ! -e new ] || fail 'a refused run has made its output'
predict() { "$bin/psdctl" predict job.yaml --rows=libsvm:gap.svm "$@"; }
refused 64 '--to would replace --rows, gap.svm' gap.svm predict --weights=plain.st --to=sub/hard.svm
refused 64 '--to would replace --weights, plain.st' plain.st predict --weights=plain.st --to=plain.st
refused 64 '--to would replace save, plain.st' plain.st predict --save=plain.st --to=plain.st
refused 64 '--to would replace the job file, job.yaml' job.yaml predict --weights=plain.st --to=job.yaml
refused 64 '--to would replace --from, plain.st' plain.st "$bin/psdctl" import job.yaml --from=plain.st --to=plain.st
refused 64 '--to would replace data.train, gap.svm' gap.svm "$bin/psdctl" import job.yaml --from=plain.st --to=gap.svm
for _ in new again; do # a model that the job starts with may be imported once more
    "$bin/psdctl" import job.yaml --init=made.st --from=plain.st --to=made.st --force >said 2>&1 || fail "$(cat said)"
done

# A directory is named, and so is a device that is full.
for to in sub /dev/full; do
    timeout 600 "$bin/psdctl" run "${job[@]}" --restarts=0 --save=$to >said 2>&1 || true
    grep -q "write $to: " said || fail "--save=$to: $(cat said)"
    [ -e "$to" ] && [ ! -f "$to" ] || fail "$to has become a file"
done

# Closed descriptors are no reason to abort, and no file gets what was meant for them.
closed() {
    for fds in '0<&-' '1>&-' '2>&-' '0<&- 1>&- 2>&-'; do
        code=0
        eval "timeout 600 \"\$@\" $fds" >said 2>&1 || code=$?
        [ "$code" = "$want" ] || fail "$* $fds ended with $code, not $want: $(cat said)"
    done
}
want=0
for program in psd psd-worker; do closed "$bin/$program" --version; done
for fds in '0<&-' '2>&-'; do
    eval "timeout 120 \"$bin/psdctl\" run \"\${job[@]}\" --save=closed.st $fds" >said 2>&1 || fail "psdctl run $fds: $(cat said)"
    same closed.st
    rm closed.st
done
# What psdctl prints is its result, which is lost then; the model is not.
timeout 120 "$bin/psdctl" run "${job[@]}" --save=closed.st 2>said >&- && fail 'psdctl run has lost its summary and does not say so'
grep -q 'psdctl: cannot write to standard output: Bad file descriptor' said || fail "$(cat said)"
same closed.st
want=69
closed "$bin/psd" --insecure --join=tcp://127.0.0.1:1 --listen=tcp://127.0.0.1:0 --status-listen=none --join-timeout=1s
closed "$bin/psd-worker" --insecure --join=tcp://127.0.0.1:1 --join-timeout=1s "${job[@]:4}"
echo 'outputs: as they should be'
