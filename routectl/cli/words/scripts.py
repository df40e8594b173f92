"""Scripts of completion for bash, zsh and fish: ``routectl --completion SHELL`` prints one.

A script hands the words before the cursor to ``routectl --complete`` and gets lines: ``words`` or
``files``, then each word that fits with a tab and what it is. A word that ends in : or = goes on.
"""

__all__ = ["SCRIPTS"]

_BASH = r"""# of bash: eval "$(routectl --completion bash)" in ~/.bashrc
_routectl() {
    local -a found
    local line
    mapfile -t found < <("$1" --complete bash "${COMP_LINE:0:COMP_POINT}" 2>/dev/null)
    COMPREPLY=()
    if [[ ${found[0]-} == files ]]; then
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -f -- "$2")
        return
    fi
    for line in "${found[@]:1}"; do
        COMPREPLY+=("${line%%$'\t'*}")
    done
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[:=] ]]; then
        compopt -o nospace 2>/dev/null
    fi
}
complete -F _routectl routectl
"""
_ZSH = r"""#compdef routectl
# of zsh: routectl --completion zsh > _routectl, in a folder of $fpath; or eval it after compinit
_routectl() {
    local -a found told open
    local line word
    found=("${(@f)$("$words[1]" --complete zsh "${(@Q)words[2,CURRENT]}" 2>/dev/null)}")
    if [[ $found[1] == files ]]; then
        compset -P '--[^=]##='
        _files
        return
    fi
    for line in "${(@)found[2,-1]}"; do
        word="${line%%$'\t'*}"
        if [[ $word == *[:=] ]]; then
            open+=("$word")
        else
            told+=("${word//:/\\:}:${line#*$'\t'}")
        fi
    done
    (( $#open )) && compadd -S '' -a open
    (( $#told )) && _describe routectl told
}
if [[ $funcstack[1] == _routectl ]]; then
    _routectl "$@"
else
    compdef _routectl routectl
fi
"""
_FISH = r"""# of fish: routectl --completion fish > ~/.config/fish/completions/routectl.fish
function __routectl_complete
    set -l before (commandline -opc)
    set -l name $before[1]
    set -e before[1]
    set -l current (commandline -ct)
    set -l found ($name --complete fish $before "$current" 2>/dev/null)
    if test "$found[1]" = files
        set -l flag (string match -r -- '^--[^=]+=' $current)
        for path in (__fish_complete_path (string replace -r -- '^--[^=]+=' '' $current))
            echo "$flag"$path
        end
        return
    end
    set -e found[1]
    string join \n -- $found
end
complete -c routectl -f -a '(__routectl_complete)'
"""
SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
