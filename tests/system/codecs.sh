#!/usr/bin/env bash
# codecs.sh BIN SOURCE - gradients and weights in codes: a cluster's weights are those of one process, for each codec and for votes, on 1
# to 3 servers, through connections that are reset; and the bytes that travel are as few as the codec says.
set -euo pipefail
bin=$1
dir=$(mktemp -d)
children=()
trap 'kill "${children[@]}" 2>/dev/null || true; wait || true; rm -rf "$dir"' EXIT
cd "$dir"

fail() {
    echo "codecs: $*" >&2
    [ ! -e out ] || cat out >&2
    exit 1
}

# ---- the same bits

job=(--data-train=glyphs:1200 --data-test=glyphs:100 --data-batch=240 "--model-layers=784,32,10" --workers-min=3
    --stop-steps=20 --eval-every=0 --status-listen=none --lease=5s)
n=0
while read -r push pull servers size rule; do
    n=$((n + 1))
    "$bin/psdctl" verify "${job[@]}" --run-dir=run$n --servers="$servers" --message-size="$size" --codec-push="$push" --codec-pull="$pull" \
        "--optimizer=${rule:-adam(lr=0.002)}" >out 2>&1 || fail "$push, $pull, $servers servers: ended with $?"
    grep -q "^steps 1 to 20, 4 tensors, 3 workers, $servers servers: 240 hashes, all equal to those of one process$" out ||
        fail "$push, $pull, $servers servers: it does not report equal hashes"
done <<'END'
bf16 f32 1 1Mi
int8 f32 2 4Ki
topk(0.01) f32 3 20000
sign f32 1 20000
bf16 int8 2 1Mi
int8 bf16 3 4Ki
topk(0.1) bf16 1 4Ki
sign int8 2 20000
f32 bf16 3 1Mi
f32 int8 1 4Ki
sign f32 1 20000 dlion(lr=0.001)
sign int8 2 4Ki lookahead(dlion(lr=0.001, weight_decay=0.1))
f32 f32 3 4Ki dlion(lr=0.001)
int8 f32 2 1Mi dlion(lr=0.001, mean=1)
END

# Connections are reset again and again: what is lost with them is pushed again, as the same bytes.
said() { # FILE PATTERN: the first match of the group, once the program has said it
    local i found
    for ((i = 0; i < 3000; i++)); do
        found=$([ ! -e "$1" ] || sed -n "s/.*$2.*/\1/p" "$1" | head -n 1)
        [ -z "$found" ] || break
        sleep 0.1
    done
    echo "$found"
}
start() { # NAME PUSH PULL: a server for two workers, in $join and $url
    "$bin/psd" --insecure --listen=tcp://127.0.0.1:0 --status-listen=127.0.0.1:0 --workers-min=2 --workers-want=2 --lease=20s --net-local=off --codec-push="$2" \
        --codec-pull="$3" >"$1.server" 2>"$1.log" &
    children+=($!)
    join=$(said "$1.server" 'data=tcp:..\([^ ]*\)')
    url=$(said "$1.server" 'status=\([^ ]*\)')
}
work() { # NAME WHERE ID FLAG...
    "$bin/psd-worker" --insecure --model-kind=mlp --data-train=glyphs:400 --data-batch=40 --eval-every=0 --progress=none --join="tcp://$2" \
        --worker-id="$3" --run-dir="$1.$3" "${@:4}" >"$1.$3.said" 2>&1 &
    children+=($!)
}
sha_of() { grep -o '"sha256": *"[0-9a-f]*"' "$1/summary.json" || fail "$1 names no weights"; }

small=("--model-layers=784,100,10" --stop-steps=300)
for push in int8 sign; do
    for name in calm cut; do
        start $push.$name "$push" bf16
        via=$join
        [ $name = calm ] || {
            "$bin/psd-tcp-proxy" --to="$join" --cut-every=500 --truncate=50 --seed=3 >$push.proxy &
            proxy=$!
            children+=("$proxy")
            via=$(said $push.proxy 'listen=\([^ ]*\)')
        }
        work $push.$name "$via" 0 "${small[@]}" && first=$!
        work $push.$name "$via" 1 "${small[@]}" && second=$!
        wait "$first" || fail "$push, $name: worker 0 ended with $?: $(tail -n 3 $push.$name.0.said)"
        wait "$second" || fail "$push, $name: worker 1 ended with $?: $(tail -n 3 $push.$name.1.said)"
    done
    kill -TERM "$proxy"
    wait "$proxy" || true
    grep -q 'cuts=[1-9]' $push.proxy || fail "no connection was reset: $(cat $push.proxy)"
    [ "$(sha_of $push.calm.0)" = "$(sha_of $push.cut.0)" ] || fail "$push: resets have changed the weights"
    [ "$(cat $push.cut.*.said | wc -l)" -gt 2 ] || fail "$push: the workers have said nothing"
    ! grep -q residual.reset $push.cut.*.said || fail "$push: a residual was lost with a connection"
done

# ---- fewer bytes

metric() { sed -nE "s/^$1(\{[^}]*\})? //p" metrics; }
measure() { # NAME PUSH PULL: in $pushed and $pulled, bytes of a step
    local steps received sent
    start "$1" "$2" "$3"
    work "$1" "$join" 0 --model-layers=784,512,10 --stop-steps=1000000 && first=$!
    work "$1" "$join" 1 --model-layers=784,512,10 --stop-steps=1000000 && second=$!
    "$bin/psdctl" wait --for=step=5 --timeout=200 "$url"
    curl -fsS "$url/metrics" >metrics
    steps=$(metric psd_steps_total) received=$(metric psd_received_bytes_total) sent=$(metric psd_sent_bytes_total)
    "$bin/psdctl" wait --for=step=$((${steps%.*} + 200)) --timeout=200 "$url"
    curl -fsS "$url/metrics" >metrics
    pushed=$(awk "BEGIN { print ($(metric psd_received_bytes_total) - $received) / ($(metric psd_steps_total) - $steps) }")
    pulled=$(awk "BEGIN { print ($(metric psd_sent_bytes_total) - $sent) / ($(metric psd_steps_total) - $steps) }")
    kill -TERM "$first" "$second"
}
measure f32 f32 f32
plain_pushed=$pushed plain_pulled=$pulled
while read -r push pull most_pushed most_pulled; do
    measure "$push" "$push" "$pull"
    echo "gradients in $push $(awk "BEGIN { print $pushed / $plain_pushed }"), weights in $pull $(awk "BEGIN { print $pulled / $plain_pulled }")"
    awk "BEGIN { exit !($pushed <= $most_pushed * $plain_pushed && $pulled <= $most_pulled * $plain_pulled) }" ||
        fail "$push takes $pushed bytes of $plain_pushed, $pull $pulled of $plain_pulled"
done <<'END'
bf16 bf16 0.51 0.51
int8 int8 0.26 0.26
sign f32 0.0714 1.1
topk(0.01) f32 0.025 1.1
END
echo 'the codecs hold'
