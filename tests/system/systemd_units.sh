#!/usr/bin/env bash
# systemd_units.sh BIN SOURCE - systemd's own check of the units, with the built programs, and its score of how much they
# expose: 2.0 at most, of 10. The manual pages that they name are looked at by system/install, because they are not installed here.
set -euo pipefail
bin=$1 source=$2
command -v systemd-analyze >/dev/null || { echo 'systemd_units: skipped: there is no systemd-analyze' && exit 77; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
for unit in psd@ psd-worker@; do
    sed "s|/usr/bin/|$bin/|; /^Documentation=man:/d" "$source/deploy/systemd/$unit.service" >"$dir/$unit.service"
    systemd-analyze verify "$dir/$unit.service" || { echo "systemd_units: verify $unit" >&2; exit 1; }
    systemd-analyze security --offline=true --no-pager --threshold=20 "$dir/$unit.service" >"$dir/score" ||
        { cat "$dir/score" >&2; exit 1; }
    tail -n 1 "$dir/score"
done
# Each exit code that a second start would only repeat is named in both; 75 is a success.
for code in 64 65 66 76 77 78; do
    for unit in psd@ psd-worker@; do
        grep -q "^RestartPreventExitStatus=.*\b$code\b" "$source/deploy/systemd/$unit.service" ||
            { echo "systemd_units: $unit is started again after $code" >&2; exit 1; }
    done
done
grep -q '^SuccessExitStatus=75$' "$source/deploy/systemd/psd@.service"
grep -q '^RestartForceExitStatus=75$' "$source/deploy/systemd/psd-worker@.service"
