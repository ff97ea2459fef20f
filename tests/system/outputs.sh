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
