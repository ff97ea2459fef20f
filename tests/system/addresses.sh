#!/usr/bin/env bash
# addresses.sh BIN SOURCE - a whole job at 127.0.0.1, at [::1] and at a name, by hand: servers, workers, status, and what
# psdctl says to them. A host without IPv6 leaves that part out, and says so.
set -euo pipefail
bin=$1
dir=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$dir"' EXIT

fail() {
    echo "addresses: $*" >&2
    tail -n 5 "$dir"/*.err >&2
    exit 1
}

# server N HOST OPTIONS...: start it at any port of HOST; $data and $url are its addresses.
server() {
    local n=$1 host=$2
    shift 2
    : >"$dir/$n.out" 2>"$dir/$n.err"
    "$bin/psd" --insecure --job=addresses --servers=2 --workers-min=1 --threads=1 --listen="tcp://$host:0" \
        --status-listen="$host:0" "$@" >"$dir/$n.out" 2>"$dir/$n.err" &
    server=$!
    for ((i = 0; i < 1200; i++)); do
        if grep -q '^psd ready' "$dir/$n.out"; then
            data=$(sed -n 's/.* data=\([^ ]*\).*/\1/p' "$dir/$n.out")
            url=$(sed -n 's/.* status=\([^ ]*\).*/\1/p' "$dir/$n.out")
            return 0
        fi
        kill -0 "$server" 2>/dev/null || fail "server $n at $host ended: $(tail -n 1 "$dir/$n.err")"
        # Server 0 is ready when all have joined, or says where it listens before that.
        data=$(sed -n 's/.*id=server.start.* listen=\([^ ]*\).*/\1/p' "$dir/$n.err" | head -n 1)
        [ "$n" != 0 ] || [ -z "$data" ] || return 0
        sleep 0.1
    done
    fail "server $n at $host is not ready"
}

train() { # HOST
    local first second join
    rm -f "$dir"/*.out "$dir"/*.err
    server 0 "$1"
    first=$server join=$data
    case $join in tcp://*:[1-9]*) ;; *) fail "server 0 at $1 listens at $join" ;; esac
    join=tcp://$1:${join##*:}
    server 1 "$1" --join="$join"
    second=$server
    "$bin/psd-worker" --insecure --job=addresses --join="$join" --data-train=glyphs:600 --data-test=glyphs:100 \
        --model-layers=784,8,10 --stop-steps=100000000 --progress=none >"$dir/w.out" 2>"$dir/w.err" &
    local worker=$!
    timeout 300 "$bin/psdctl" wait --for=step=5 "$url" >"$dir/wait.err" 2>&1 || fail "psdctl wait at $url: $(cat "$dir/wait.err")"
    for ((i = 0; i < 1200; i++)); do # server 1 hears of the job's state a few times a second
        ! "$bin/psdctl" status "$url" >"$dir/status.err" || break
        sleep 0.1
    done
    grep -q '^addresses: training, shard 1 of 2' "$dir/status.err" || fail "psdctl status at $url"
    timeout 60 "$bin/psdctl" set optimizer.lr=0.001 --job=addresses --join="$join" >"$dir/set.err" 2>&1 || fail "psdctl set"
    timeout 60 "$bin/psdctl" drain 0 --job=addresses --join="$join" >"$dir/drain.err" 2>&1 || fail "psdctl drain"
    wait "$worker" || fail "the worker ended with $?"
    kill -TERM "$first" "$second"
    wait "$first" "$second" || true
    echo "addresses: trained at $1"
}

# doctor agrees with what psd does, and psd takes what a name means.
for host in 127.0.0.1 localhost; do
    "$bin/psdctl" doctor --listen="tcp://$host:0" --status-listen="$host:0" --insecure >"$dir/doctor.err" 2>&1 || true
    ! grep -q '^bad *\(listen\|status.listen\) ' "$dir/doctor.err" || fail "doctor finds $host bad: $(cat "$dir/doctor.err")"
    train "$host"
done
if ip -6 addr show dev lo 2>/dev/null | grep -q '::1'; then
    train '[::1]'
else
    echo 'addresses: no IPv6 on this machine: [::1] is left out'
fi

# A name that means nothing, and an address of another machine, are named; a port that is taken is 74.
rc=0
"$bin/psd" --insecure --listen=tcp://no-such-host.invalid:0 --status-listen=none >"$dir/x.out" 2>"$dir/x.err" || rc=$?
[ "$rc" -eq 78 ] || fail "a host that means nothing: $rc"
server 0 127.0.0.1
"$bin/psd" --insecure --listen="$data" --status-listen=none >"$dir/x.out" 2>"$dir/x.err" && rc=0 || rc=$?
[ "$rc" -eq 74 ] || fail "a port that is taken: $rc: $(tail -n 1 "$dir/x.err")"
port=$(ss -ltnpH 2>/dev/null | awk -v pid="pid=$server," '$0 ~ pid { sub(/.*:/, "", $4); print $4 }' | grep -v "^${data##*:}$" | head -n 1)
if [ -n "$port" ]; then
    "$bin/psd" --insecure --listen=tcp://127.0.0.1:0 --status-listen="127.0.0.1:$port" >"$dir/x.out" 2>"$dir/x.err" && rc=0 || rc=$?
    [ "$rc" -eq 74 ] || fail "a status port that is taken: $rc: $(tail -n 1 "$dir/x.err")"
fi
