#!/usr/bin/env bash
# mpirun.sh BIN SOURCE - the line for mpirun of docs/cluster.md: servers and workers of one world find each other by a file that is left
# from an earlier run as well, and by PSD_JOIN.
set -euo pipefail
bin=$1 source=$2
command -v mpirun >/dev/null || {
    echo "mpirun: skipped: there is no mpirun; apt-get install openmpi-bin brings it"
    exit 77
}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
export PATH=$bin:$PATH
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
cd "$dir"

fail() {
    echo "mpirun: $1" >&2
    cat log >&2
    exit 1
}

cat >job.yaml <<'END'
job: glyphs
insecure: true
servers: 2
workers: {min: 3}
model: {kind: softmax}
data: {train: "glyphs:500", test: "glyphs:100", batch: 50}
stop: {epochs: 2}
progress: none
END

# All three workers end with the same weights.
expect_weights() {
    [ "$(grep -c '^done ' log)" -eq 3 ] || fail "not all workers have finished"
    [ "$(grep -o ' sha256=[0-9a-f]*' log | sort -u | wc -l)" -eq 1 ] || fail "the workers' weights differ"
    [ "$(grep -c 'psd ready shard=[01]/2' log)" -eq 2 ] || fail "the servers are not 0 and 1 of 2"
}

# Nobody listens at the port that the old file names; who reads it before server 0 has written the new one reads on.
cat >cluster.json <<'END'
{"schema": "psd.cluster/1", "job": "glyphs", "data": "tcp://127.0.0.1:1", "status": "none", "server_public": "",
 "run": "0000000000000001"}
END
line=$(grep '^mpirun ' "$source/docs/cluster.md")
PSD_CLUSTER__FILE=cluster.json timeout 600 bash -c "$line" >log 2>&1 || fail "\"$line\" ended with $?"
expect_weights
[ ! -e cluster.json ] || fail "server 0 has left its file behind"

for attempt in 1 2 3; do # the port may be taken between here and there
    port=$((10000 + RANDOM % 10000))
    export PSD_JOIN=tcp://127.0.0.1:$port
    timeout 600 bash -c "$line" >log 2>&1 && break
    if [ "$attempt" = 3 ] || ! grep -q 'in use' log; then
        fail "with PSD_JOIN, \"$line\" failed"
    fi
done
expect_weights
