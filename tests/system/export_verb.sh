#!/usr/bin/env bash
# export_verb.sh BIN SOURCE - psdctl export writes what a checkpoint holds, takes an older one where the newest is damaged,
# replaces nothing unasked, and leaves nothing half done. That torch and numpy take it: torch_export.py.
set -euo pipefail
bin=$1
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
saved=$dir/saved out=$dir/out
shard=$saved/000000000020/shard-1.safetensors

fail() {
    echo "export_verb: $*" >&2
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
    "$bin/save_checkpoint" "$saved" $clock
done

# Two tensors on two servers; save_checkpoint gives each chunk's i-th element the value i + clock.
expect 0 "$out/model.safetensors: fast weights of clock 20, step 20" export --to="$out" "$saved"
expect 0 "F32      [1100] 4400 bytes  a" inspect "$out/model.safetensors"
expect 0 "F32      [3] 12 bytes  b[0]" inspect "$out/model.safetensors"
expect 0 "psd.which = fast" inspect "$out/model.safetensors"
values() { # FIRST N FILE: elements of its one array, or of the first
    od -An -v -tf4 -w4 -j $((4096 + 4 * $1)) -N $((4 * $2)) "$3" | tr -d ' ' | paste -sd ' '
}
[ "$(values 0 3 "$out/model.safetensors")" = "20 21 22" ] || fail "a begins otherwise"
[ "$(values 1022 4 "$out/model.safetensors")" = "1042 1043 20 21" ] || fail "a's chunks are joined otherwise"
[ "$(stat -c %s "$out/model.safetensors")" = $((4096 + 4 * 1103)) ] || fail "the model has another length"
[ "$(ls "$out")" = model.safetensors ] || fail "more than the model was written: $(ls "$out")"

expect 74 "$out/model.safetensors exists already; add --force to replace it" export --to="$out" "$saved"
expect 0 "fast weights of clock 10, step 10" export --to="$out" --force "$saved" 10
[ "$(values 0 1 "$out/model.safetensors")" = 10 ] || fail "--force replaced nothing"
expect 0 "$out/new/er/optimizer_param_groups.json" export --to="$out/new/er" --optimizer "$saved"
expect 0 "F32      [1100] 4400 bytes  state/0/exp_avg_sq" inspect "$out/new/er/optimizer_state.safetensors"
expect 0 "F64      [] 8 bytes  state/1/step" inspect "$out/new/er/optimizer_state.safetensors"
grep -q '"rule": "adam(lr=0.001,' "$out/new/er/optimizer_param_groups.json" || fail "the groups lack the rule"
expect 0 "$out/model.npz: fast weights" export --to="$out" --format=npz "$saved"

expect 64 "which keeps no slow weights; try --weights=fast" export --weights=slow --to="$dir/no" "$saved"
expect 64 "--weights: weights is \"best\"; it takes auto or fast or slow" export --weights=best "$saved"
expect 64 "--format: format is \"onnx\"; it takes safetensors or npz" export --format=onnx "$saved"
expect 64 "unknown option --quick" export --quick "$saved"
expect 64 "--to needs a value: PATH" export "$saved" --to
expect 64 "write psdctl export [options] DIR [CLOCK]" export
expect 64 "CLOCK is a whole number" export "$saved" 2x
expect 66 "there is no checkpoint below $dir/none" export "$dir/none"
expect 66 "MANIFEST-000000000030.json: No such file" export --to="$dir/no" "$saved" 30
expect 74 "cannot make the directory $saved/MANIFEST-000000000010.json/x" \
    export --to="$saved/MANIFEST-000000000010.json/x" "$saved"
[ ! -e "$dir/no" ] || [ -z "$(ls "$dir/no")" ] || fail "a refused export left $(ls "$dir/no")"

# Damage that only reading the data shows: by itself it is refused, else the checkpoint before it is taken.
printf x | dd of="$shard" bs=1 seek=4200 conv=notrunc status=none
expect 65 "is damaged: its CRC differs" export --to="$dir/no" "$saved" 20
[ -z "$(ls "$dir/no" 2>/dev/null)" ] || fail "a damaged checkpoint left $(ls "$dir/no")"
expect 0 "trying an older checkpoint, of clock 10" export --to="$dir/older" "$saved"
[ "$(values 0 1 "$dir/older/model.safetensors")" = 10 ] || fail "the older one was not taken"
rm "$saved"/000000000010/shard-0.safetensors
expect 66 "cannot read $saved/000000000010/shard-0.safetensors: No such file" export --to="$dir/no" "$saved"

# Rules that step whole tensors: a matrix's momentum, adamw's state of what is no matrix, and torch's shapes of rows and columns.
(cd "$dir" && "$bin/psdctl" run --data-train=glyphs:240 --data-test=glyphs:40 --data-batch=120 --model-layers=784,16,10 --servers=2 \
    --stop-steps=4 --eval-every=0 --status-listen=none --checkpoint-dir=whole --run-dir=ran --optimizer=muon \
    '--groups=fc2.*(optimizer=adafactor)' >ran.out 2>&1) || fail "the job ended with $?"
expect 0 "optimizer_state" export --to="$out/whole" --optimizer --weights=fast "$dir/whole"
for array in "[16, 784] 50176 bytes  state/0/momentum_buffer" "[16] 64 bytes  state/1/exp_avg_sq" "[10, 1] 40 bytes  state/2/row_var" \
    "[1, 16] 64 bytes  state/2/col_var" "[10] 40 bytes  state/3/variance"; do
    expect 0 "F32      $array" inspect "$out/whole/optimizer_state.safetensors"
done
tr -d ' \n' <"$out/whole/optimizer_param_groups.json" | grep -q '"eps":\[1.1920928955078125e-0*7,0.001\],"d":1.0' ||
    fail "adafactor's values are not torch's"

[ -z "$(ls "$dir/no" 2>/dev/null)" ] || fail "two damaged checkpoints left $(ls "$dir/no")"
