#!/usr/bin/env bash
# launch.sh BIN - psdctl launch over real ssh: three hosts, which are this machine by other names and addresses. A job trains
# to the same weights as under psdctl run, whatever dies on the way; nobody stays behind; what is wrong is named.
set -euo pipefail
bin=$1
for program in ssh ssh-keygen dropbear dropbearkey unshare ip; do
    command -v $program >/dev/null || { echo "launch: skipped: there is no $program" && exit 77; }
done
[ "$(id -u)" -eq 0 ] || { echo 'launch: skipped: only root can have a home of its own for this test' && exit 77; }
# In namespaces of its own, root's home is a directory of this test, so that nobody's keys are touched, and every port is free.
if [ -z "${LAUNCH_HOME-}" ]; then
    unshare -mn true 2>/dev/null || { echo 'launch: skipped: no namespaces here' && exit 77; }
    LAUNCH_HOME=$(mktemp -d)
    export LAUNCH_HOME
    trap 'rm -rf "$LAUNCH_HOME"' EXIT
    unshare -mn "$0" "$@"
    exit
fi
dir=$LAUNCH_HOME
trap 'kill $(jobs -p) 2>/dev/null || true; wait || true' EXIT
cd "$dir"

fail() {
    echo "launch: $*" >&2
    tail -n 30 "$dir"/out* >&2 || true
    exit 1
}

awk -F: -v OFS=: -v home="$dir" '$1 == "root" { $6 = home; $7 = "/bin/sh" } 1' /etc/passwd >passwd
mount --bind passwd /etc/passwd
mkdir -m 700 .ssh
chmod 755 "$dir"
dropbearkey -t ed25519 -f host.key >/dev/null 2>&1
ssh-keygen -q -t ed25519 -N '' -f .ssh/id_ed25519
cp .ssh/id_ed25519.pub .ssh/authorized_keys
ip link set lo up
cat >ssh_config <<END
Host node1
    HostName 127.0.0.2
Host node2
    HostName 127.0.0.3
Host node3
    HostName 127.0.0.4
Host gone
    HostName 127.0.0.5
Host *
    User root
    IdentityFile $dir/.ssh/id_ed25519
    UserKnownHostsFile $dir/.ssh/known_hosts
    StrictHostKeyChecking no
    LogLevel ERROR
END
sshd=()
for node in 2 3 4; do
    dropbear -F -E -r host.key -p 127.0.0.$node:22 2>dropbear.$node &
    sshd+=($!)
done
ssh=(--remote-shell="ssh -F $dir/ssh_config -o BatchMode=yes")
for ((i = 0; i < 3000; i++)); do
    ! ssh -F ssh_config node3 true 2>out.ssh || break
    sleep 0.1
done
ssh -F ssh_config node1 true || fail 'ssh itself does not work here'

cat >job.yaml <<'END'
job: launch
servers: 2
workers: {min: 3}
threads: 1
optimizer: "lookahead(adam(lr=2e-3), k=5, alpha=0.5)"
model: {kind: mlp, layers: [784, 32, 10]}
data: {train: "glyphs:6000", test: "glyphs:1000", batch: 96}
stop: {epochs: 20}
lease: 5s
END
cat >hosts <<'END'
# three names of this machine
node1 servers=1 workers=1 address=127.0.0.2
root@node2 servers=1 workers=1 address=127.0.0.3
node3 workers=1
END

sha() { sed -n 's/^  sha256  *//p' "$1"; }
nobody_left() { # RUN: nothing of it is alive
    for ((i = 0; i < 3000; i++)); do
        pgrep -f -- "--run-dir=$dir/$1" >/dev/null || return 0
        sleep 0.1
    done
    fail "$1: still there: $(pgrep -af -- "--run-dir=$dir/$1")"
}
await() { # FILE WORDS
    for ((i = 0; i < 3000; i++)); do
        ! grep -q -- "$2" "$1" 2>/dev/null || return 0
        sleep 0.1
    done
    fail "$1 lacks: $2"
}
refuses() { # CODE WORDS ARGUMENT...
    local code=$1 words=$2 rc=0
    shift 2
    timeout 600 "$bin/psdctl" launch "${ssh[@]}" "$@" >out.refused 2>&1 || rc=$?
    [ "$rc" -eq "$code" ] || fail "$*: ended with $rc instead of $code"
    grep -q -- "$words" out.refused || fail "$*: does not say: $words"
}

"$bin/psdctl" run job.yaml --run-dir="$dir"/plain >out.plain 2>&1 || fail 'the plain run failed'
want=$(sha out.plain)
[ -n "$want" ] || fail 'the plain run tells no hash'

# An agent that hears nothing any more, while its connection stands, ends its processes; that takes 30 s, in parallel with the rest.
mkfifo silent
(printf '%s\n' '{"directory": "/", "make": "'"$dir"'/deserted", "environment": {}, "secrets": {}, "words": ["psd", "--insecure",
    "--listen=tcp://127.0.0.1:0", "--status-listen=none", "--run-dir='"$dir"'/deserted"]}' | tr -d '\n' && echo && exec sleep 300) >silent &
"$bin/psdctl" --as-agent <silent >out.deserted 2>&1 &
agent=$!

# Whole.
"$bin/psdctl" launch "${ssh[@]}" --hostfile=hosts --run-dir="$dir"/whole job.yaml >out 2>&1 || fail 'the launch failed'
[ "$(sha out)" = "$want" ] || fail "other weights than in psdctl run: $(sha out)"
grep -q "^operate psdctl pause --join=tcp://127.0.0.2:[0-9]* --job=launch --key=$dir/whole/admin.key --server-public=$dir/whole/server.pub$" out ||
    fail 'it does not say how to operate the job'
grep -q 'on node1$' out || fail 'it does not say where the status is'
grep -q 'listen=tcp://0.0.0.0:' whole/logs/server-0.log || fail 'server 0 is not reached from elsewhere'
grep -q 'data=tcp://127.0.0.3:' whole/logs/server-1.log || fail 'server 1 does not advertise the address of its line'
[ "$(stat -c %a whole/admin.key)" = 600 ] || fail 'the admin key is not kept for its owner'
nobody_left whole

# A program of the user's own, which finds in its environment whom to join, and the key that was drawn for it.
"$bin/psdctl" launch "${ssh[@]}" --hostfile=hosts --run-dir="$dir"/own job.yaml -- sh -c "exec '$bin/psd-worker' '$dir/job.yaml'" >out.own 2>&1 ||
    fail 'the launch of a program failed'
[ "$(sha out.own)" = "$want" ] || fail "other weights by a program of one's own: $(sha out.own)"
nobody_left own

# A worker, a server and a connection die; no secret is to be seen in any command line meanwhile.
"$bin/psdctl" launch "${ssh[@]}" --hostfile=hosts --run-dir="$dir"/hurt --checkpoint-dir=hurt/checkpoints --checkpoint-every-steps=50 \
    --stop-epochs=0 --stop-steps=20000 --eval-every=0 job.yaml >out.hurt 2>&1 &
launch=$!
await out.hurt '^status http'
await hurt/logs/worker-2.log 'id=train.progress'
ps -e -o args= >out.ps
! grep -qE 'secret [^ ]{40}|"secrets"' out.ps || fail 'a secret in a command line'
grep -q -- '--server-key=/dev/fd/' out.ps || fail 'no server that has its key by a file in memory'
pkill -KILL -f "/psd-worker .*--worker-id=1 .*--run-dir=$dir/hurt"
await out.hurt 'run.restart role="worker 1 on root@node2" ended="was killed by signal 9'
pkill -KILL -f "/psd .*--server-index=1 .*--run-dir=$dir/hurt"
await out.hurt 'run.restart role="server 1 on root@node2" ended="was killed by signal 9'
pkill -KILL -P "${sshd[2]}" # the server of each connection to node3
await out.hurt 'run.restart role="worker 2 on node3"'
wait $launch || fail 'the hurt launch failed'
"$bin/psdctl" run job.yaml --run-dir="$dir"/plain20000 --stop-epochs=0 --stop-steps=20000 --eval-every=0 >out.plain 2>&1 || fail 'the plain run failed'
[ "$(sha out.hurt)" = "$(sha out.plain)" ] || fail 'other weights after deaths'
nobody_left hurt

# Its end is everybody's: asked to stop, and killed. The directory has had a launch before.
"$bin/psdctl" launch "${ssh[@]}" --hostfile=hosts --run-dir="$dir"/whole --stop-epochs=0 --stop-steps=1000000 job.yaml >out.stopped 2>&1 &
launch=$!
await out.stopped '^status http'
await out.stopped '^step='
join=$(sed -n 's/^psd ready .* data=\([^ ]*\) .*/\1/p' whole/logs/server-0.log | tail -n 1)
for request in pause resume; do
    "$bin/psdctl" $request --job=launch --join="$join" --key=whole/admin.key --server-public=whole/server.pub >out.request 2>&1 ||
        fail "the admin key is not taken for $request: $(cat out.request)"
done
rc=0
kill -TERM $launch
wait $launch || rc=$?
[ "$rc" -eq 75 ] || fail "stopped: ended with $rc"
nobody_left whole
"$bin/psdctl" launch "${ssh[@]}" --hostfile=hosts --run-dir="$dir"/killed --stop-epochs=0 --stop-steps=1000000 job.yaml >out.killed 2>&1 &
launch=$!
await killed/logs/worker-0.log 'id=train.progress'
kill -KILL $launch
wait $launch || true
nobody_left killed

# Mistakes are named.
refuses 64 'give --hostfile' job.yaml
refuses 66 'nowhere: No such file' --hostfile=nowhere job.yaml
echo 'node1 workers=three' >bad
refuses 78 'bad:1: workers="three" must be a whole number' --hostfile=bad job.yaml
echo 'node1 workers=2' >bad
refuses 78 'bad has 2 workers in all, and workers.min' --hostfile=bad job.yaml
printf 'node1 servers=2\ngone workers=3\n' >bad
refuses 69 'worker [0-2] on gone ended with 69' --hostfile=bad --run-dir="$dir"/gone job.yaml
nobody_left gone
printf '#!/bin/sh\nexec <&-\nsleep 3\n' >deaf # closes its ears, and says nothing
chmod +x deaf
refuses 69 'server 0 on node1 ended before it was ready' --hostfile=hosts --remote-shell="$dir/deaf" --run-dir="$dir"/deafened job.yaml
refuses 66 'not found; check that psd is installed there (--remote-bin)' --hostfile=hosts --remote-bin=/nowhere --run-dir="$dir"/lacking job.yaml
cat >moved <<END
#!/bin/sh
# A remote shell to a host without the directory: HOST COMMAND
mv $dir/elsewhere $dir/moved-away
exec sh -c "\$2"
END
chmod +x moved
mkdir elsewhere
(
    cd elsewhere
    refuses 66 'the job.s directory must exist on every host' --hostfile=../hosts --run-dir="$dir"/away \
        --remote-shell="$dir/moved" ../job.yaml
) || exit 1
rc=0
wait $agent || rc=$?
[ "$rc" -eq 137 ] || fail "an agent that hears nothing ended with $rc"
grep -q '^psd ready ' out.deserted || fail 'the deserted agent has run nothing'
grep -q 'psdctl launch has gone silent' out.deserted || fail 'the deserted agent does not say why'
nobody_left deserted
echo 'launch: ok'
