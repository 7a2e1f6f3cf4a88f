_ipvsctl_completion() {
    local IFS=$'\n' line=${COMP_LINE:0:COMP_POINT} type value cut=
    local word=${line##*[[:space:]]}

    word=${word#*=}
    if [[ $word == *:* && $COMP_WORDBREAKS == *:* ]]; then
        cut=${word%"${word##*:}"}
    fi
    COMPREPLY=()
    while IFS=, read -r type value; do
        case $type in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain) COMPREPLY+=("${value#"$cut"}") ;;
            part) compopt -o nospace; COMPREPLY+=("${value#"$cut"}") ;;
        esac
    done < <(COMP_WORDS=$line _IPVSCTL_COMPLETE=bash_complete "$1" 2>/dev/null)
}

complete -o nosort -F _ipvsctl_completion ipvsctl
