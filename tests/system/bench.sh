#!/usr/bin/env bash
# bench.sh BIN SOURCE - every row of the bench can be measured, and tells numbers or that it is without torch, or without a link
# where none can be made. How fast anything is is not looked at.
set -euo pipefail
bin=$1 source=$2
json=$(mktemp)
trap 'rm -f "$json"' EXIT
fail() {
    echo "bench: $1" >&2
    exit 1
}
link=$source/tests/bench/link
no_link=$("$link" 1gbit true) # the reason, where networks of one's own are not permitted
[[ -z $no_link || $no_link == 'skip a link needs '* ]] || fail "$no_link"
number='[0-9]+\.[0-9]+'
"$bin/bench" --quick --json "$json"
rows=0
while IFS=$'\t' read -r row commands; do
    rows=$((rows + 1))
    line=$(grep -F "\"row\": \"$row\"," "$json") || fail "no line tells of $row"
    if [[ $line == *'"skipped": '* ]]; then
        [[ $commands == *.py* && $line =~ torch|python3 || -n $no_link && $line == *'"a link needs '* ]] ||
            fail "a row was skipped for no reason: $line"
    else
        [[ $line =~ \"ms\":\ $number,\ \"limit_ms\":\ $number,\ \"ratio\":\ $number,\ \"low\":\ $number,\ \"high\":\ $number,\ \"bar\":\ ($number|null), ]] ||
            fail "a row without its numbers: $line"
        ! grep -qE '"(ms|limit_ms)": 0\.0+,' <<<"$line" || fail "a row that took no time: $line"
    fi
done < <("$bin/bench" --list)
[ "$rows" -ge 15 ] || fail "only $rows rows"
[ "$(wc -l <"$json")" -eq "$rows" ] || fail 'there are lines without a row'
! "$bin/bench" --quick no-such-row 2>/dev/null || fail 'a row that there is none of was taken'

# Without its tools there is no link; otherwise it ends as its program does, and knows a rate when it sees one.
[[ $(PATH=/none "$BASH" "$link" 1gbit true) == 'skip a link needs '* ]] || fail 'a link without tools'
if [ -z "$no_link" ]; then
    rc=0
    "$link" 1gbit sh -c '[ -e "$BENCH_FAR" ] && exit 3' || rc=$?
    [ "$rc" -eq 3 ] || fail "the link ended with $rc, not as its program did"
    [[ $("$link" fast true) == 'skip a link needs interfaces with a rate: '* ]] || fail 'a link that is fast'
fi
for program in exchange_psd exchange_zmq; do
    ! said=$("$bin/$program" --far 2>&1) || fail "$program: another host was found without a link"
    [[ $said == *'run this program by tests/bench/link'* ]] || fail "$program said: $said"
done
echo "bench: $rows rows"
