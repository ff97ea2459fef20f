#!/usr/bin/env bash
# checkpoint_faults.sh BIN SOURCE - a process that saves a checkpoint is killed at each of its system calls, then each of
# them fails, is short or says that the disk is full: the checkpoint before it stays whole, the new one is whole or does
# not count, and a failure leaves no temporary file and is not tried again on the same file.
set -euo pipefail
bin=$1
export ASAN_OPTIONS=detect_leaks=0:${ASAN_OPTIONS-} # which does not work under strace
command -v strace >/dev/null || { echo 'checkpoint_faults: skipped: there is no strace' && exit 77; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
strace -qq -o /dev/null -e inject=fsync:error=EIO:when=99 true 2>/dev/null ||
    { echo 'checkpoint_faults: skipped: this system does not permit ptrace' && exit 77; }
points=0 failures=0

fail() {
    echo "checkpoint_faults: $*" >&2
    exit 1
}

# Clock 10 must be whole, and 20 as well when it is listed; $1 is what was done.
check() {
    "$bin/psdctl" checkpoint verify "$dir/ck" 10 >/dev/null || fail "$1: the checkpoint before is damaged"
    if [ -e "$dir/ck/MANIFEST-000000000020.json" ]; then
        "$bin/psdctl" checkpoint verify "$dir/ck" 20 >/dev/null || fail "$1: a manifest of a checkpoint that is not whole"
    fi
}

# Save clock 20 beside 10 with strace injecting $1. Sets rc.
save() {
    rm -rf "$dir/ck"
    cp -a "$dir/before" "$dir/ck"
    rc=0
    # In a shell of its own, which says of the killed one what we know.
    (strace -f -qq -o "$dir/trace" -e inject="$1" "$bin/save_checkpoint" "$dir/ck" 20; exit $?) >/dev/null 2>&1 || rc=$?
}

# How often a save makes the system call $1.
calls() {
    rm -rf "$dir/ck"
    cp -a "$dir/before" "$dir/ck"
    strace -f -qq -e trace="$1" -o "$dir/trace" "$bin/save_checkpoint" "$dir/ck" 20
    grep -c "$1(" "$dir/trace" || true
}

"$bin/save_checkpoint" "$dir/before" 10

for call in openat mkdir fallocate pwrite64 fdatasync fsync close renameat unlink; do
    n=$(calls $call)
    for ((k = 1; k <= n; k++)); do
        save "$call:signal=KILL:when=$k"
        check "killed at $call $k"
        points=$((points + 1))
    done
done
[ "$points" -gt 30 ] || fail "only $points points to be killed at"

for what in fallocate:error=ENOSPC pwrite64:error=EIO pwrite64:error=ENOSPC fdatasync:error=EIO fsync:error=EIO \
    renameat:error=EIO; do
    call=${what%%:*}
    n=$(calls "$call")
    for ((k = 1; k <= n; k++)); do
        save "$what:when=$k"
        check "$what at $k"
        # Once the manifest is there, only pruning can fail, which is logged.
        [ "$rc" -eq 74 ] || { [ "$rc" -eq 0 ] && [ -e "$dir/ck/MANIFEST-000000000020.json" ] && [ "$what" = fsync:error=EIO ]; } ||
            fail "$what at $k: ended with $rc instead of 74"
        [ -z "$(find "$dir/ck" -name '*.tmp')" ] || fail "$what at $k: a temporary file is left"
        [ "$(grep -c "fdatasync(.*INJECTED" "$dir/trace")" -le 1 ] || fail "$what at $k: fdatasync was tried again"
        failures=$((failures + 1))
    done
done

# A disk that says it has written what it has not: 100 bytes are missing where they should be, and that is found.
n=$(calls pwrite64)
for ((k = 1; k <= n; k++)); do
    save "pwrite64:retval=100:when=$k"
    "$bin/psdctl" checkpoint verify "$dir/ck" 10 >/dev/null || fail "a lost write at $k: the checkpoint before is damaged"
    [ ! -e "$dir/ck/MANIFEST-000000000020.json" ] || ! "$bin/psdctl" checkpoint verify "$dir/ck" 20 >/dev/null 2>&1 ||
        fail "a lost write at $k is not found"
    failures=$((failures + 1))
done

# A write that is short is gone on with.
n=$(calls pwrite64)
for ((k = 1; k <= n; k++)); do
    save "pwrite64:retval=0:when=$k"
    check "an empty write at $k"
    [ "$rc" -eq 74 ] || fail "an empty write at $k: ended with $rc"
done
# A file system that cannot reserve is fine.
save "fallocate:error=EOPNOTSUPP"
check "no fallocate"
[ "$rc" -eq 0 ] || fail "without fallocate: ended with $rc"
"$bin/psdctl" checkpoint verify "$dir/ck" 20 >/dev/null
echo "killed at $points points, $failures failures"
