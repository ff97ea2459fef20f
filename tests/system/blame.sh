#!/usr/bin/env bash
# blame.sh BIN SOURCE - a worker behind a slow link is called slow for its network, never for computing, though its weights take
# longer to reach it than it computes.
set -euo pipefail
bin=$1
dir=$(mktemp -d)
cd "$dir"
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$dir"' EXIT

fail() {
    echo "blame: $*" >&2
    exit 1
}

# said FILE PATTERN: the first match of the group, once the program has said it.
said() {
    local i found
    for ((i = 0; i < 3000; i++)); do
        found=$([ ! -e "$1" ] || sed -n "s/.*$2.*/\1/p" "$1" | head -n 1)
        [ -z "$found" ] || break
        sleep 0.1
    done
    echo "$found"
}

"$bin/psd" --insecure --listen=tcp://127.0.0.1:0 --status-listen=127.0.0.1:0 --workers-min=2 --workers-want=2 --lease=5s --net-local=off >server 2>server.log &
join=$(said server 'data=tcp:..\([^ ]*\)')
url=$(said server 'status=\([^ ]*\)')
"$bin/psd-tcp-proxy" --to="$join" --rate=500000 >proxy &
slow=$(said proxy 'listen=\([^ ]*\)')
job=(--insecure --model-kind=mlp "--model-layers=784,100,10" --data-train=glyphs:40 --data-batch=4 --eval-every=0
     --stop-steps=1000000 --progress=none)
"$bin/psd-worker" "${job[@]}" --join="tcp://$join" --worker-id=0 >0.said 2>&1 &
"$bin/psd-worker" "${job[@]}" --join="tcp://$slow" --worker-id=1 >1.said 2>&1 &
for ((i = 0; i < 1200; i++)); do
    curl -fsS "$url/status" >status
    ! grep -q '"slow_reason": "compute"' status || fail "somebody is blamed for computing: $(grep -E -A 3 'slow_reason|alerts' status)"
    ! grep -q '"slow_reason": "network"' status || break
    sleep 0.1
done
grep -q 'rounds wait for worker 1 .*: \(weights take .* to reach it\|its pushes take .* to arrive\)' status ||
    fail "worker 1 is not called slow for its network: $(grep -E -A 3 'slow_reason|alerts' status)"
