#!/usr/bin/env bash
# layout.sh BIN SOURCE - every C file is laid out as .clang-format says; skipped without clang-format 14, because others break lines
# elsewhere.
set -euo pipefail
source=$2
for format in clang-format-14 clang-format; do
    ! command -v $format >/dev/null || ! $format --version | grep -q 'version 14\.' || break
    format=
done
[ -n "$format" ] || {
    echo 'layout: skipped: clang-format 14 is not here'
    exit 77
}
cd "$source"
n=$(find common deploy proto server tests worker -name '*.[ch]' | wc -l)
[ "$n" -ge 400 ] || {
    echo "layout: only $n files" >&2
    exit 1
}
said=$(find common deploy proto server tests worker -name '*.[ch]' -print0 | xargs -0 "$format" --dry-run -Werror 2>&1) || {
    grep -m 5 'error:' <<<"$said" >&2
    echo "layout: run $format -i on these files" >&2
    exit 1
}
! grep -rn --include='*.[ch]' '^ *\*/$' common deploy proto server tests worker >&2 || {
    echo 'layout: the end of a comment stands on a line of its own' >&2
    exit 1
}
echo "layout: $n files"
