#!/usr/bin/env bash
# doctor.sh BIN SOURCE - psdctl doctor finds what is wrong with a machine or a job, says what to do, shows no secret, leaves
# nothing behind, and ends with 1 exactly when something is bad.
set -euo pipefail
bin=$1 source=$2
dir=$(mktemp -d)
cd "$dir"
pids=()
# shellcheck disable=SC2317  # called by the trap
clean() {
    [ ${#pids[@]} -eq 0 ] || kill "${pids[@]}" 2>/dev/null || true
    cd /
    rm -rf "$dir"
}
trap clean EXIT

fail() {
    echo "doctor: $*" >&2
    exit 1
}

# Run it with these words; it must end with CODE, and each line of standard input must be a regular expression that the
# report holds.
finds() { # CODE ARG... <<< REGEXES
    local code=$1 rc=0 regex
    shift
    "$bin/psdctl" doctor "$@" >report 2>&1 || rc=$?
    [ "$rc" -eq "$code" ] || fail "doctor $* ended with $rc instead of $code: $(cat report)"
    local n=0
    while read -r regex; do
        grep -qE "$regex" report || fail "doctor $* lacks \"$regex\": $(cat report)"
        n=$((n + 1))
    done
    [ $n -gt 0 ] || fail "nothing is looked for in doctor $*"
}

start() { # NAME ARG...: a server, whose addresses are in $data and $status then
    "$bin/psd" --listen=tcp://127.0.0.1:0 --status-listen=127.0.0.1:0 --log-level=error --join-timeout=0s "${@:2}" >"$1" &
    pids+=($!)
    for _ in $(seq 6000); do
        grep -q '^psd ready' "$1" && break
        kill -0 $! || fail "psd $* has ended"
        sleep 0.05
    done
    data=$(sed -n 's/.* data=\([^ ]*\).*/\1/p' "$1")
    status=$(sed -n 's/.* status=http:..\([^ ]*\).*/\1/p' "$1")
}

addresses=(--listen=tcp://127.0.0.1:0 --status-listen=127.0.0.1:0)
any=("${addresses[@]}" --data-train=glyphs:600 --data-test=glyphs:100) # little to read, many times
finds 0 "${any[@]}" <<'END'
^psdctl doctor [0-9.]+, 20
^ok +psd +[0-9.]+, built by (gcc|clang)
^ok +processor .* kernels: [a-z0-9]+ \(of 
^ok +libraries .*ZeroMQ 4\.[0-9.]+, libuv 1\.
^(ok|warn) +memory .*GiB
^ok +limits
^(ok|warn) +clock
^(ok|warn) +loopback +round trip [0-9]+ us median
^(ok|warn) +disk .*MB/s with a flush
^ok +listen .*any free port
^[0-9]+ ok, [0-9]+ warn, 0 bad$
END
finds 0 --json "${any[@]}" <<<'"schema": "psd.doctor/1"'
[ "$(ls -A)" = report ] || fail "it left $(ls -A)"

finds 0 "$source/deploy/examples/glyphs.yaml" "${addresses[@]}" <<'END'
^ok +job +.*glyphs.yaml: options are right
^ok +keys +none: all traffic is unencrypted
^ok +data +glyphs: 60000 rows of 784 features
END
printf 'servers: 999\n' >bad.yaml
finds 1 bad.yaml <<<'^bad +job +bad.yaml:1:10: servers is 999; it takes 1 to 256'
printf 'a,b,y\n1,2,1\n3,4,1\n' >one.csv
finds 0 "${addresses[@]}" --data-train=csv:one.csv --model-kind=logistic --model-layers= --data-batch=2 --workers-min=1 \
    <<<'^warn +data +csv:one.csv: all 2 rows that are trained on are of one class'
finds 1 "${any[@]}" '--groups=conv*(lr=1)' <<<'^bad +groups +--groups: groups: conv\* matches no tensor of the model'
finds 1 "${addresses[@]}" --data-train=csv:none.csv <<<'^bad +data +--data-train: none.csv: No such file'
printf 'a,b,y\n1,2,0\n,3,1\n2,,0\n4,5,1\n' >holes.csv
finds 0 "${addresses[@]}" --data-train=csv:holes.csv --data-na=skip --model-kind=logistic --model-layers= --workers-min=1 \
    <<<'^warn +data +csv:holes.csv: 2 rows of 2 features; data.na=skip leaves out 2 with a missing value'
finds 64 --frobnicate <<<'unknown option --frobnicate'

# Limits, disks.
(ulimit -n 64 && finds 1 "${any[@]}" --workers-min=8 <<<'^bad +limits +64 open files, but this job needs 82')
(ulimit -n 64 && finds 1 "${any[@]}" --workers-min=2 --workers-want=8 --servers=2 <<<'^bad +limits +64 open files, but this job needs 84')
finds 1 "${any[@]}" --checkpoint-dir=/proc/none <<<'^bad +checkpoint.dir'
finds 1 "${any[@]}" --checkpoint-dir="$dir/report/x" <<<'^bad +checkpoint.dir'
if [ "$(stat -f -c %T /dev/shm 2>/dev/null)" = tmpfs ]; then
    finds 0 "${any[@]}" --checkpoint-dir=/dev/shm/psd-none <<<'^warn +checkpoint.dir +/dev/shm: '
fi
[ ! -e /dev/shm/psd-none ] || fail 'it made a directory'

# Keys: readable only by their owner, and never shown.
"$bin/psdctl" keygen ps --role=server >allow
"$bin/psdctl" keygen gpu >>allow
chmod 600 allow
finds 0 "${any[@]}" --server-key=ps.key --allow=allow --worker-key=gpu.key --server-public=ps.pub <<'END'
^ok +server.key +ps.key, mode 0600
^ok +worker.key +gpu.key, mode 0600
^ok +allow +allow, mode 0600: 1 of role server, 1 worker, 0 reader, 0 monitor, 0 admin
END
for key in ps.key gpu.key; do
    [ "$(grep -v '^#' $key | wc -c)" -gt 20 ] || fail "$key holds no secret"
    ! grep -qF "$(grep -v '^#' $key)" report || fail "it shows the secret of $key"
done
for only in server worker; do
    grep " $only " allow >only.$only && chmod 600 only.$only
    finds 0 "${any[@]}" --server-key=ps.key --allow=only.$only <<<"^warn +allow +only.$only, mode 0600: .*1 (of role )?$only"
    grep -q 'servers need one as well as workers' report || fail "no advice for a list with only a $only: $(cat report)"
done
chmod 644 gpu.key
finds 1 "${any[@]}" --worker-key=gpu.key --server-public=ps.pub <<<'^bad +worker.key +.*gpu.key'
chmod 600 gpu.key
finds 1 "${any[@]}" --server-key=none.key <<<'^bad +server.key +.*none.key'

# A codec where the link is what a step waits for, one that suits the rule, and none where computing is; nothing is changed.
wide=(--data-train=glyphs:600 "--model-layers=784,2000,10" --net-local=off --workers-min=8 --data-batch=8 "${addresses[@]}")
finds 0 "${wide[@]}" --optimizer='sgd(lr=0.1)' <<<'^ok +codec +codec.push=(bf16|int8|sign|topk\(0.1\)) with codec.pull=bf16 may shorten a step to .*, for 8 workers and 1 server'
finds 0 "${wide[@]}" --optimizer='dlion(lr=0.001)' <<<'^ok +codec +codec.push=sign with codec.pull=(bf16|f32) may shorten'
finds 0 "${any[@]}" --model-layers=784,4,10 --data-batch=600 <<<'^ok +codec +none would shorten a step by more than 5 %: without one a step takes about .*this host.s memory'
! grep -qE '^(ok|warn|bad) +codec +codec' report || fail 'two advices'
finds 1 --data-train=csv:none.csv "${addresses[@]}" <<<'^ok +codec +no recommendation: no step can be measured'
"$bin/psdctl" doctor >report || true # whatever the default addresses are
! grep -q codec report || fail 'a codec is advised for no job'

# Addresses: who is there, and who is not.
start plain --insecure --job=plain
finds 1 "--listen=$data" --status-listen="$status" <<END
^bad +listen +$data: Address already in use
^warn +status.listen +$status is taken: psd .* serves job plain there
END
finds 0 "${any[@]}" --join="$data" <<<"^ok +join +$data answers as ZeroMQ 3.1, without keys"
finds 1 "${any[@]}" --join="$data" --worker-key=gpu.key --server-public=ps.pub <<<'^bad +join .*without keys'
finds 1 "${any[@]}" --join="tcp://$status" <<<"^bad +join +tcp://$status accepts the connection, but sends nothing within 5 s"
finds 1 "${any[@]}" --join=tcp://127.0.0.1:1 <<<'^bad +join +no server answers at tcp://127.0.0.1:1'
finds 1 "${any[@]}" --join=tcp://no.such.host.invalid:1 <<<'^bad +join +no server answers at tcp://no.such.host.invalid:1'
finds 1 --listen=tcp://203.0.113.1:7470 --status-listen=none <<<'^bad +listen +tcp://203.0.113.1:7470: Cannot assign'
kill -STOP "${pids[0]}"
finds 1 "${any[@]}" --join="$data" <<<"^bad +join +$data accepts the connection, but sends nothing within 5 s"
kill -CONT "${pids[0]}"
start keyed --job=keyed --server-key=ps.key --allow=allow
finds 0 "${any[@]}" --join="$data" --worker-key=gpu.key --server-public=ps.pub <<<'^ok +join .*with keys'
finds 1 "${any[@]}" --join="$data" <<<'^bad +join .*with keys'

# A machine without a loopback.
if [ "$(id -u)" -eq 0 ] && unshare -n true 2>/dev/null; then
    rc=0
    unshare -n "$bin/psdctl" doctor "${any[@]}" >report 2>&1 || rc=$?
    [ $rc -eq 1 ] && grep -qE '^bad +loopback' report || fail "without lo: $rc, $(cat report)"
fi

# The link to another host is as fast as its interface says.
if [ "$(id -u)" -eq 0 ] && command -v ip >/dev/null && unshare -mn true 2>/dev/null; then
    while read -r kind regex; do
        unshare -n ip link add psd0 type "$kind" 2>/dev/null || continue
        # shellcheck disable=SC2016  # expanded inside
        unshare -mn bash -ec 'mount -t sysfs none /sys; ip link set lo up; ip link add psd0 type $0; ip addr add 10.9.0.1/24 dev psd0
            ip link set psd0 up; exec "$@"' "$kind" "$bin/psdctl" doctor "${any[@]}" --model-layers=784,4,10 --join=tcp://10.9.0.2:7470 >report 2>&1 || true
        grep -qE "^ok +codec .* over psd0 ?$regex" report || fail "$kind: $(cat report)"
    done <<'END'
veth , which reports 10 Gbit/s, for
bridge \(which reports no speed; taken as the loopback's [0-9.]+ Gbit/s\), for
END
fi
echo 'doctor: ok'
