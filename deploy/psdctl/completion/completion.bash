_psd() {
    local psd_words line=${1##*/} at=1 cur=${COMP_WORDS[COMP_CWORD]} flag
    COMPREPLY=()
    # "--flag=value" comes in three words.
    if [[ $cur == = ]]; then cur=; fi
    flag=${COMP_WORDS[COMP_CWORD - 1]}
    if [[ $flag == = ]]; then flag=${COMP_WORDS[COMP_CWORD - 2]}; fi
    while [[ $line == psdctl* ]] && _psd_verbs "$line" && [[ -n $psd_words && $at -lt $COMP_CWORD ]] &&
        [[ " $psd_words " == *" ${COMP_WORDS[at]} "* ]]; do
        line+=" ${COMP_WORDS[at]}"
        at=$((at + 1))
    done
    if [[ $cur != -* && $line == psdctl* && $at -eq $COMP_CWORD ]] && _psd_verbs "$line" && [[ $psd_words ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$psd_words" -- "$cur")
        return
    fi
    if [[ $cur != -* && $flag == --* ]] && _psd_values "$flag" && [[ $psd_words ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$psd_words" -- "$cur")
        return
    fi
    if [[ $cur == -* ]]; then
        _psd_flags "$line"
        mapfile -t COMPREPLY < <(compgen -W "$psd_words" -- "$cur")
        if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]]; then compopt -o nospace 2>/dev/null; fi
        return
    fi
    mapfile -t COMPREPLY < <(compgen -f -- "$cur")
    compopt -o filenames 2>/dev/null
}
complete -F _psd @PSD_PROGRAM_NAME@ psd-worker psdctl
