#!/usr/bin/env bash
# checkpoint_verbs.sh BIN SOURCE - psdctl checkpoint and psdctl inspect say what is saved, find damage, and remove nothing
# unasked.
set -euo pipefail
bin=$1 source=$2
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
shard=000000000020/shard-1.safetensors

fail() {
    echo "checkpoint_verbs: $*" >&2
    exit 1
}

# Run psdctl; it must end with $1 and say $2 (on either stream).
expect() {
    local code=$1 words=$2 rc=0
    shift 2
    said=$("$bin/psdctl" "$@" 2>&1) || rc=$?
    [ "$rc" -eq "$code" ] || fail "psdctl $* ended with $rc instead of $code: $said"
    [[ $said == *"$words"* ]] || fail "psdctl $* lacks \"$words\": $said"
}

for clock in 10 20; do
    "$bin/save_checkpoint" "$dir" $clock
done
expect 0 "          20           20       2       2       0.01  job" checkpoint list "$dir"
expect 0 "clock 10 is whole" checkpoint verify "$dir"
expect 0 "clock 20 is whole" checkpoint verify "$dir" 20
expect 0 "clock 20 is whole" checkpoint verify "$dir" 0020
expect 66 "No such file" checkpoint verify "$dir" 30
expect 66 "No such file" checkpoint verify "$dir" 0
expect 64 "CLOCK is a whole number, as psdctl checkpoint list shows it; not 2x" checkpoint verify "$dir" 2x
expect 64 "CLOCK is a whole number, as psdctl checkpoint list shows it; not 99999999999999999999" checkpoint verify "$dir" 99999999999999999999
expect 66 "there is no checkpoint below $dir/none" checkpoint list "$dir/none"
expect 64 "at least 2" checkpoint prune "$dir" --keep 1
expect 64 "--keep: keep is \"2x\", not a valid whole number" checkpoint prune "$dir" --keep=2x
expect 64 "checkpoint needs a second word, one of list, verify, save, prune" checkpoint
expect 64 "there is no verb checkpoint burn; after checkpoint write one of list, verify, save, prune" checkpoint burn "$dir"

cp -a "$dir/000000000010" "$dir/000000000015" # an attempt that was not finished
expect 0 "would remove $dir/000000000015/shard-0.safetensors" checkpoint prune "$dir" --keep 2
[ -e "$dir/000000000015" ] || fail "a dry prune removed something"
expect 0 "removing $dir/000000000015/shard-1.safetensors" checkpoint prune "$dir" --keep 2 --yes
[ ! -e "$dir/000000000015" ] || fail "prune left an unfinished attempt"
expect 0 "nothing to remove" checkpoint prune "$dir" --keep 2

expect 0 "F32      [76] 304 bytes  a[1024:1100]/exp_avg" inspect "$dir/$shard"
expect 0 '"psd.job": "job"' inspect --json "$dir/$shard"
expect 66 "No such file" inspect "$dir/none"
expect 66 "is a directory; name the file in it" inspect "$dir"

# Notes of up to 60 characters are shown whole, and shapes as they are.
sixty=$(printf '%060d' 1)
header="{\"__metadata__\":{\"short\":\"$sixty\",\"long\":\"${sixty}2\"},\"a\":{\"dtype\":\"U8\",\"shape\":[1,2],\"data_offsets\":[0,2]}}"
{ printf %b "\\x$(printf %x ${#header})\\0\\0\\0\\0\\0\\0\\0" && printf '%sxy' "$header"; } >"$dir/notes"
expect 0 ": 1 arrays, 2 bytes of data from byte " inspect "$dir/notes"
expect 0 "  short = $sixty
" inspect "$dir/notes"
expect 0 "  long = $sixty... (61 characters)" inspect "$dir/notes"
expect 0 "  U8       [1, 2] 2 bytes  a" inspect "$dir/notes"

printf x | dd of="$dir/$shard" bs=1 seek=4200 conv=notrunc status=none
expect 0 "          20           20" checkpoint list "$dir"
expect 65 "a[1024:1100] is damaged: its CRC differs" checkpoint verify "$dir"
printf x | dd of="$dir/$shard" bs=1 seek=200 conv=notrunc status=none
expect 65 "$shard: the header is damaged: its CRC differs" checkpoint list "$dir"
# A name that would clear the screen does not.
header='{"\u001b[2J":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
{ printf %b "\\x$(printf %x ${#header})\\0\\0\\0\\0\\0\\0\\0" && printf %s "${header}x"; } >"$dir/steers"
expect 0 "U8       [1] 1 bytes  ?[2J" inspect "$dir/steers"

# A job goes on from a checkpoint of format 1, of round 20 of the job below, with the bits of one that has not stopped.
cd "$source"
train() { # NAME FLAG...
    "$bin/psdctl" run deploy/examples/linear.yaml --optimizer='lookahead(adam(lr=0.05),k=5)' --servers=2 --stop-steps=60 --status-listen=none \
        --progress=none --run-dir="$dir/$1" "${@:2}" >"$dir/$1.out" 2>&1 || fail "$1: $(cat "$dir/$1.out")"
    sed -n 's/^  sha256  *//p' "$dir/$1.out"
}
cp -r tests/data/checkpoint-format-1 "$dir/old"
[ "$(train resumed --checkpoint-dir="$dir/old")" = "$(train whole)" ] || fail "format 1: other weights"
grep -q 'id=shard.restored clock=20 ' "$dir"/resumed/logs/server-0.log || fail "format 1: not gone on from round 20"
