#!/usr/bin/env bash
# slurm.sh BIN SOURCE - deploy/slurm/psd.sbatch on a Slurm of four nodes with addresses of their own: two servers, three
# workers. A worker's node that dies leaves the others to finish; a job that is put back into the queue in mid-run goes on, and
# one whose cable is pulled for 5 s waits, and both end with the bits of a run that nobody disturbed.
set -euo pipefail
bin=$1 source=$2
dir=$(mktemp -d)
slurm=$source/deploy/slurm/local-cluster
# A daemon that is ending may write once more while its directory is removed.
trap '"$slurm" stop "$dir/slurm"; rm -rf "$dir" 2>/dev/null || { sleep 1; rm -rf "$dir"; }' EXIT
chmod 755 "$dir"
export PATH=$bin:$PATH
cd "$dir"

fail() {
    echo "slurm: $1" >&2
    shift
    for file in "$@"; do tail -n 30 "$file" >&2 || true; done
    exit 1
}
on_cluster() { timeout 600 "$slurm" run "$dir/slurm" "$@"; }

# Wait until the command succeeds, for at most this many seconds.
await() {
    local what=$1 end=$((SECONDS + 10 * $2)) # of a quiet machine; a busy one takes longer
    shift 2
    until "$@"; do
        [ "$SECONDS" -lt "$end" ] || fail "there is no $what in time" ./*.log slurm/log/*.log
        sleep 0.1
    done
}

# Put a job into the queue, servers on node 1, workers on nodes 2, 3 and 4. Its log is NAME.log.
submit() {
    on_cluster sbatch --parsable --output="$1.log" --nodelist=10.77.0.11 --ntasks=2 : \
        --output="$1.log" --nodelist='10.77.0.[12-14]' --nodes=3 --ntasks=3 "$source/deploy/slurm/psd.sbatch" "$2" "$dir/$1" "${@:3}" >"$1.id"
}
state_of() { on_cluster scontrol show job "$(cat "$1.id")" 2>/dev/null | grep -o 'JobState=[A-Z]*' | head -n 1; }
has_completed() {
    case $(state_of "$1") in
    JobState=COMPLETED) ;;
    JobState=FAILED | JobState=CANCELLED | JobState=NODE_FAIL) fail "job $1 is $(state_of "$1")" "$1.log" ;;
    *) return 1 ;;
    esac
}
has_steps() { [ "$(wc -l 2>/dev/null <"$1/metrics.jsonl" || echo 0)" -ge "$2" ]; }
# SIGUSR1, which Slurm sends when the time is almost up, has a checkpoint made; the others are those of rounds 100, 200, ...
is_saved_on_request() {
    grep -Eq 'id=checkpoint.committed clock=[0-9]*([1-9][0-9]|[0-9][1-9]) ' "$1.log" && return
    on_cluster scancel --batch --signal=USR1 "$(cat "$1.id")"
    return 1
}
# Keys for a job, as psd.sbatch would make them, and an operator's.
keys_with_operator() (
    mkdir -p "$1/keys"
    cd "$1/keys"
    for name in ps:server worker:worker operator:admin; do
        psdctl keygen "${name%:*}" --role="${name#*:}"
    done >allow
)
operate() {
    local name=$1 verb=$2
    shift 2
    on_cluster psdctl "$verb" "$@" --job=glyphs --timeout=300 --key="$name/keys/operator.key" --server-public="$name/keys/ps.pub" \
        --join="$(sed -n 's/^.*psd ready shard=0.* data=\([^ ]*\) .*/\1/p' "$name.log" | tail -n 1)" >&2 || fail "psdctl $verb" "$name.log"
}
weights_of() { sed -n 's/.*"sha256": *"\([0-9a-f]\{64\}\)".*/\1/p' "$1/summary.json"; }

"$slurm" start "$dir/slurm"

cat >job.yaml <<'END'
job: glyphs
workers: {min: 3, lost: wait}
lease: 20s
checkpoint: {every: 0s, every_steps: 100}
optimizer: "lookahead(adam(lr=2e-3))"
model: {kind: mlp, layers: [784, 32, 10]}
data: {train: "glyphs:6000", test: "glyphs:1000", batch: 120}
stop: {epochs: 30}
progress: none
END
# Learns nothing, and so does not end, until it is given a learning rate.
sed 's/min: 3, lost: wait/min: 2, lost: drop/; s/^lease: .*/lease: 2s/; s/lr=2e-3/lr=0/; s/^stop: .*/stop: {target: 0.5}/' job.yaml >lossy.yaml

# Undisturbed, and beside it one that is put back.
submit calm job.yaml
submit requeued job.yaml
await "step 200 of the job that is to be requeued" 60 has_steps requeued 200
on_cluster scontrol requeue "$(cat requeued.id)"
await "end of the undisturbed job" 90 has_completed calm
calm=$(weights_of calm)
[ -n "$calm" ] || fail "the undisturbed job has no weights" calm.log

# A cable is pulled; metrics have the time of each step.
submit cable job.yaml -- psd-worker --progress=log "$dir/job.yaml" # as if it were a program of the user's own
await "step 100 of the job whose cable is to be pulled" 60 has_steps cable 100
await "checkpoint on SIGUSR1" 30 is_saved_on_request cable
"$slurm" cut "$dir/slurm" 3
sleep 5 # this is the fault itself
"$slurm" join "$dir/slurm" 3
await "end of the job whose cable was pulled" 90 has_completed cable
pause=$(sed -n 's/.*"ts": *\([0-9.]*\).*/\1/p' cable/metrics.jsonl | awk 'last && $1 - last > most { most = $1 - last } { last = $1 } END { print int(most) }')
[ "$pause" -ge 4 ] || fail "to pull the cable stopped nobody: the longest pause was $pause s" cable.log
[ "$(weights_of cable)" = "$calm" ] || fail "a pulled cable has changed the weights" cable.log

await "end of the requeued job" 120 has_completed requeued
[ "$(grep -c 'psd ready shard=0/2' requeued.log)" -eq 2 ] || fail "the job was not interrupted in mid-run" requeued.log
grep -q 'id=server.exit code=75' requeued.log || fail "a server that was told to stop did not end with 75" requeued.log
[ "$(weights_of requeued)" = "$calm" ] || fail "a requeue has changed the weights" requeued.log

# A node dies: slurmd, slurmstepd and the worker, all at once. The others can finish once that has been noticed.
keys_with_operator killed
submit killed lossy.yaml
await "step 100 of the job whose node is to die" 60 has_steps killed 100
"$slurm" kill "$dir/slurm" 4
await "notice of the death of a node" 60 grep -q 'id=worker.lost' killed.log
operate killed set optimizer.lr=2e-3
await "end of the job whose node died" 120 has_completed killed
[ "$(grep -c '^done ' killed.log)" -eq 2 ] || fail "the workers that were left did not finish" killed.log
grep -q 'id=server.exit code=0' killed.log || fail "the job did not finish" killed.log
echo "slurm: $SECONDS s; weights $calm"
