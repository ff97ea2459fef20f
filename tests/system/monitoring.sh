#!/usr/bin/env bash
# monitoring.sh BIN SOURCE - the metrics of a real job: each one that is declared is there with a value, Prometheus' own lint
# finds nothing, and the alerts and the board that come with psd name only metrics and labels that there are.
set -euo pipefail
bin=$1 source=$2
dir=$(mktemp -d)
trap 'kill "$job" 2>/dev/null || true; wait || true; rm -rf "$dir"' EXIT

fail() {
    echo "monitoring: $*" >&2
    exit 1
}

: >"$dir/out"
"$bin/psdctl" run "$source/deploy/examples/glyphs.yaml" --run-dir="$dir/run" --checkpoint-dir="$dir/ck" --progress=none --threads=1 \
    --stop-epochs=0 --stop-steps=1000000000 >"$dir/out" 2>&1 &
job=$!
for ((i = 0; i < 3000; i++)); do
    url=$(sed -n 's/^status \(http[^ ]*\).*/\1/p' "$dir/out" | head -n 1)
    [ -z "$url" ] || break
    sleep 0.1
done

get() { # PATH FILE: the body
    exec 3<>"/dev/tcp/127.0.0.1/${url##*:}"
    printf 'GET %s HTTP/1.0\r\nHost: localhost\r\n\r\n' "$1" >&3
    sed '1,/^\r$/d' <&3 >"$2"
    exec 3<&-
}

# Until a worker has reported its accuracy, which it does after an epoch: the last one to appear.
"$bin/psdctl" wait --for=step=240 --timeout=200 "$url"
for ((i = 0; i < 3000; i++)); do
    get /metrics "$dir/metrics"
    ! grep -q '^psd_validation_metric{name="val/accuracy"} 0' "$dir/metrics" || break
    sleep 0.1
done

declared=$(sed -n 's/.* X(\([A-Z_]*\), .*/&/p' "$source/common/base/metrics.h" | grep -o '"\(psd\|process\)_[a-z_]*"' | tr -d '"')
[ "$(wc -w <<<"$declared")" -ge 40 ] || fail "only $(wc -w <<<"$declared") metrics are declared"
for name in $declared; do
    grep -q "^$name\(_count\)\?[ {]" "$dir/metrics" || fail "$name is declared and has no value"
done
for name in psd_round_duration_seconds psd_barrier_wait_seconds psd_push_latency_seconds psd_apply_duration_seconds; do
    n=$(sed -n "s/^${name}_count //p" "$dir/metrics")
    [ "$n" -ge 100 ] || fail "$name has $n values after 240 rounds"
done
awk '/^psd_checkpoint_bytes/ && $2 > 100000 { good = 1 } END { exit !good }' "$dir/metrics" || fail 'checkpoints have no size'

# Names that alerts and board use, and values of the labels that they choose by.
used=$(grep -oh '\bpsd_[a-z_]*\|\bprocess_[a-z_]*' "$source/deploy/prometheus/psd.rules.yml" "$source/deploy/grafana/psd.json" | sort -u)
[ "$(wc -w <<<"$used")" -ge 20 ] || fail "only $(wc -w <<<"$used") metrics are used"
for name in $used; do
    grep -q "^${name}[ {]" "$dir/metrics" || fail "$name is used and there is no such metric"
done
labels=$(grep -oh '\(state\|reason\|level\)=\\\?"[a-z]*' "$source/deploy/prometheus/psd.rules.yml" "$source/deploy/grafana/psd.json" |
    tr -d '\\"' | sort -u)
[ "$(wc -w <<<"$labels")" -ge 4 ] || fail "only $(wc -w <<<"$labels") labels are chosen by"
for label in $labels; do
    grep -q "[{,]${label%=*}=\"${label#*=}\"" "$dir/metrics" || [ "$label" = state=degraded ] || fail "no metric has $label"
done
grep -q '"degraded"' "$source/server/core/coordinator.h" || fail 'no job is degraded'

if ! command -v promtool >/dev/null; then
    echo 'monitoring: promtool (Debian: prometheus) is not installed; its part is skipped'
    exit 0
fi
promtool check metrics <"$dir/metrics" || fail 'promtool check metrics'
promtool check rules "$source/deploy/prometheus/psd.rules.yml" || fail 'promtool check rules'
(cd "$source/deploy/prometheus" && promtool test rules psd.rules.test.yml) || fail 'promtool test rules'
promtool check config "$source/deploy/prometheus/scrape.yml" >/dev/null || fail 'promtool check config'
echo 'monitoring: ok'
