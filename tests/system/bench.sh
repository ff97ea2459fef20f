#!/usr/bin/env bash
# bench.sh BIN SOURCE - every row of the bench can be measured, and tells numbers or that it is without torch. How fast anything is
# is not looked at.
set -euo pipefail
bin=$1
json=$(mktemp)
trap 'rm -f "$json"' EXIT
fail() {
    echo "bench: $1" >&2
    exit 1
}
number='[0-9]+\.[0-9]+'
"$bin/bench" --quick --json "$json"
rows=0
while IFS=$'\t' read -r row commands; do
    rows=$((rows + 1))
    line=$(grep -F "\"row\": \"$row\"," "$json") || fail "no line tells of $row"
    if [[ $line == *'"skipped": '* ]]; then
        [[ $commands == *.py* && $line =~ torch|python3 ]] || fail "a row was skipped that needs no torch: $line"
    else
        [[ $line =~ \"ms\":\ $number,\ \"limit_ms\":\ $number,\ \"ratio\":\ $number,\ \"low\":\ $number,\ \"high\":\ $number,\ \"bar\":\ ($number|null), ]] ||
            fail "a row without its numbers: $line"
        ! grep -qE '"(ms|limit_ms)": 0\.0+,' <<<"$line" || fail "a row that took no time: $line"
    fi
done < <("$bin/bench" --list)
[ "$rows" -ge 15 ] || fail "only $rows rows"
[ "$(wc -l <"$json")" -eq "$rows" ] || fail 'there are lines without a row'
! "$bin/bench" --quick no-such-row 2>/dev/null || fail 'a row that there is none of was taken'
echo "bench: $rows rows"
