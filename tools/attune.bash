# bash completion for attune: commands, then the options of the command.
_attune() {
    local cur=${COMP_WORDS[COMP_CWORD]} cmd=${COMP_WORDS[1]} words
    words=$(attune help --words 2>/dev/null) || return
    if [ "$COMP_CWORD" = 1 ]; then
        COMPREPLY=($(compgen -W "$(cut -d: -f1 <<<"$words" | cut -d' ' -f1 |
            sort -u) help" -- "$cur"))
    elif [ "${cur#-}" != "$cur" ]; then
        COMPREPLY=($(compgen -W "$(sed -n "s/^$cmd[^:]*://p" <<<"$words")" \
            -- "$cur"))
    else
        COMPREPLY=($(compgen -f -- "$cur"))
    fi
}
complete -o filenames -F _attune attune
