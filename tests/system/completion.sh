#!/usr/bin/env bash
# completion.sh BIN SOURCE - what `psdctl completion` prints completes verbs, values and every option in bash, and is read by
# zsh.
set -euo pipefail
bin=$1
export PATH=$bin:$PATH
# shellcheck disable=SC1090
source <(psdctl completion bash)

fail() {
    echo "completion: $*" >&2
    exit 1
}

# What TAB behind these words would offer, the last of which is begun; split as bash does it.
offered() { # WORD...
    COMP_WORDS=("$@")
    COMP_CWORD=$(($# - 1))
    COMPREPLY=()
    _psd "$1"
    printf ' %s' ${COMPREPLY[@]+"${COMPREPLY[@]}"}
    echo ' '
}

offers() { # 'WORDS' WORD...
    local wanted=$1 got
    shift
    got=$(offered "$@")
    [ "$got" = " $wanted " ] || fail "behind \"$*\" it offers$got; wanted: $wanted"
}

offers 'status' psdctl sta
offers 'config' psdctl conf
offers 'compare completion' psdctl comp
offers 'list' psdctl checkpoint l
offers 'check' psdctl config c
offers 'show' psdctl help config sh
offers '--token-file=' psdctl status --tok
offers '--keep=' psdctl checkpoint prune --k
offers '--yes' psdctl checkpoint prune DIR --y
offers 'bsp' psd --sync-mode = b
offers 'bsp asp' psd --sync-mode =
offers 'asp' psd --sync-mode a
offers 'true' psd-worker --data-shuffle = t
offers 'mlp' psdctl run job.yaml --model-kind = m
offers '' psd-worker --optimiz
offers '--optimizers=' psdctl compare --optimizers
[[ $(offered psdctl run "$2/deploy/ex") == *deploy/examples* ]] || fail 'no files'

# Every flag of every program.
n=0
while IFS='|' read -r _ key _ _ programs _; do
    flag=--$(sed 's/[`. _]/-/g; s/^-*//; s/-*$//' <<<"$key")
    read -ra takers < <(sed 's/psdctl \([a-z]\)/\1/g; s/,/ /g' <<<"$programs")
    for program in "${takers[@]}"; do
        case $program in
        psdctl) line=(psdctl run) ;;
        compare | launch) line=(psdctl "$program") ;;
        *) line=("$program") ;;
        esac
        [[ $(offered "${line[@]}" "$flag") == *" $flag"[=\ ]* ]] || fail "${line[*]} does not complete $flag"
        n=$((n + 1))
    done
done < <(psdctl config --markdown | tail -n +3)
[ "$n" -ge 100 ] || fail "only $n flags"
# Every verb.
verbs=0
for name in $(psdctl help | sed -n 's/^  \([a-z]*\) .*/\1/p' | sort -u); do
    [ "$name" = psdctl ] || [[ $(offered psdctl "$name") == *" $name "* ]] || fail "no verb $name"
    verbs=$((verbs + 1))
done
[ "$verbs" -ge 15 ] || fail "only $verbs verbs"
if command -v zsh >/dev/null; then
    psdctl completion zsh | zsh -n
fi
echo "completion: $n flags"
