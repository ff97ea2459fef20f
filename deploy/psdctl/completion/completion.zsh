_psd_main() {
    local at=2 line=${words[1]:t} cur=${words[CURRENT]} flag=${words[CURRENT]%%=*}
    local -a typed=("${words[@]}")
    local psd_words
    while [[ $line == psdctl* ]] && _psd_verbs "$line" && [[ -n $psd_words && $at -lt $CURRENT ]] &&
        [[ " $psd_words " == *" ${typed[at]} "* ]]; do
        line+=" ${typed[at]}"
        at=$((at + 1))
    done
    if [[ $cur == --*=* ]]; then
        _psd_values "$flag"
        compset -P '*='
        if [[ -n $psd_words ]]; then compadd -- ${=psd_words}; else _files; fi
    elif [[ $cur == -* ]]; then
        _psd_flags "$line"
        compadd -S '' -- ${=psd_words}
    elif [[ $line == psdctl* && $at -eq $CURRENT ]] && _psd_verbs "$line" && [[ -n $psd_words ]]; then
        compadd -- ${=psd_words}
    else
        _files
    fi
}
_psd_main "$@"
