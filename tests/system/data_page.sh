#!/usr/bin/env bash
# data_page.sh BIN SOURCE - the commands of docs/data.md print what stands there. With WRITE=1 it rewrites the page.
set -euo pipefail
bin=$1 source=$2
command -v xz >/dev/null || { echo 'data_page: skipped: there is no xz' && exit 77; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
export PATH="$bin:$PATH"
page=$source/docs/data.md
mkdir "$dir/work"
cd "$dir/work"
inside=
while IFS= read -r line; do
    case $line in
    '```console') inside=1 && echo "$line" ;;
    '```') inside='' && echo "$line" ;;
    '$ '*)
        echo "$line"
        [ -z "$inside" ] || eval "${line#'$ '}" 2>&1 </dev/null || true
        ;;
    *) [ -n "$inside" ] || echo "$line" ;; # what a command printed, else
    esac
done <"$page" >"$dir/now.md"
[ -z "${WRITE-}" ] || cp "$dir/now.md" "$page"
diff "$page" "$dir/now.md" || { echo 'data_page: the page says otherwise' && exit 1; }
grep -c '^\$ ' "$page" | sed 's/^/data_page: commands: /'
