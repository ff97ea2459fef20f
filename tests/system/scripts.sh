#!/usr/bin/env bash
# scripts.sh BIN SOURCE - every shell script of the tree, and the completion that psdctl prints, as shellcheck likes them.
set -euo pipefail
bin=$1 source=$2
if ! command -v shellcheck >/dev/null; then
    echo 'scripts: skipped: it is not installed'
    exit 77
fi
cd "$source"
mapfile -t scripts < <(grep -rlE --exclude-dir=build --exclude-dir=.git --exclude-dir=runs '^#!.*\b(ba)?sh$' .)
# SC2015, "A && B || fail": fail ends the script, so that it is an else after all. SC2016: what is in single quotes is meant so.
shellcheck --exclude=SC2015,SC2016 "${scripts[@]}"
"$bin/psdctl" completion bash | shellcheck --shell=bash -
echo "scripts: ${#scripts[@]} scripts"
[ "${#scripts[@]}" -ge 20 ]
