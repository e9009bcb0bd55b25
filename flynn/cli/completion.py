"""`flynn completion`: scripts for shells. Each of them asks this command what the word at the cursor may become."""

from __future__ import annotations

from argparse import Action
from typing import Dict, Sequence

from . import COMMANDS, load
from .exits import DONE
from .options import Given, Parser
from .terminal import Terminal

EXAMPLES = """\
  eval "$(flynn completion bash)"                                     # in ~/.bashrc
  eval "$(flynn completion zsh)"                                      # in ~/.zshrc, after compinit
  flynn completion fish > ~/.config/fish/completions/flynn.fish"""

OFFLINE = True
_FILES = ("FILE", "FILE|URL", "INPUT", "OUTPUT")  # metavars of arguments that are files
FILES = {"FILES": ""}  # offered in place of the names of files, which the shell knows how to complete

_BASH = """\
# Completion of flynn for bash: eval "$(flynn completion bash)"
_flynn() {
    local IFS=$'\\n' word=${COMP_WORDS[COMP_CWORD]}
    COMPREPLY=($(flynn completion bash -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2> /dev/null))
    [ "${COMPREPLY[0]}" = FILES ] || return 0
    compopt -o filenames 2> /dev/null
    COMPREPLY=()
    while IFS= read -r word; do COMPREPLY+=("$word"); done < <(compgen -f -- "${word#=}")
}
complete -F _flynn flynn
"""
_ZSH = """\
#compdef flynn
# Completion of flynn for zsh: eval "$(flynn completion zsh)" after compinit, or this as a file _flynn in $fpath
_flynn() {
    local -a offers=("${(@f)$(flynn completion zsh -- "${(@)words[2,CURRENT]}" 2> /dev/null)}")
    case $offers[1] in
        FILES:*) compset -P '--*='; _files ;;
        ?*) _describe word offers ;;
    esac
}
if [[ $funcstack[1] == _flynn ]]; then _flynn "$@"; else compdef _flynn flynn; fi
"""
_FISH = """\
# Completion of flynn for fish: flynn completion fish > ~/.config/fish/completions/flynn.fish
function __flynn
    set -l words (commandline -opc) (commandline -ct)
    set -l offers (flynn completion fish -- $words[2..-1] 2> /dev/null)
    if string match -q 'FILES*' -- $offers[1]
        set -l option (string match -r -- '^--[^=]*=' $words[-1])
        set offers (__fish_complete_path (string replace -- "$option" '' $words[-1]))
        set offers "$option"$offers
    end
    printf '%s\\n' $offers
end
complete -c flynn -f -a '(__flynn)'
"""
# By shell: its script, and the form of an offer and its help.
_SHELLS = {"bash": (_BASH, "{}"), "fish": (_FISH, "{}\t{}"), "zsh": (_ZSH, "{}:{}")}


def add_options(parser: Parser) -> None:
    parser.usage = "flynn completion SHELL"
    parser.add_argument("shell", metavar="SHELL", choices=sorted(_SHELLS), help=f"one of {', '.join(sorted(_SHELLS))}")
    parser.add_argument("words", nargs="*", metavar="WORD", help="for the scripts: print what the last one may become")


def run(given: Given, terminal: Terminal) -> int:
    script, form = _SHELLS[given.shell]
    offers = offers_for(given.words) if given.words else {}
    terminal.write("".join(form.format(*offer) + "\n" for offer in offers.items()) if given.words else script)
    return DONE


def offers_for(words: Sequence[str]) -> Dict[str, str]:
    """Return what the last word after `flynn` may become, each with its help; `FILES` for the name of a file.

    Example:
        >>> offers_for(["ask", "--im"])
        {'--image': 'image to ask about (repeatable)'}
    """
    # bash takes --option=value apart: --option, =, value
    *before, word = "\0".join(words).replace("\0=", "=").replace("=\0", "=").split("\0")
    if not before:
        options = {"--help": "show help", "--version": "show the version"}
        offers = options if word.startswith("-") else COMMANDS
    elif before[0] not in COMMANDS:
        return {}
    else:
        offers = _in_command(load(before[0]), before[1:], word)
    return offers if offers is FILES else {offer: help for offer, help in offers.items() if offer.startswith(word)}


def _in_command(parser: Parser, before: Sequence[str], word: str) -> Dict[str, str]:
    actions = {name: action for action in parser._actions for name in action.option_strings}
    name, equals, _ = word.partition("=")
    option = actions.get(name if equals else before[-1] if before else "")
    if option and option.nargs != 0:
        return _values(option)
    if word.startswith("-"):
        return {name: (action.help or "").replace("%%", "%") for name, action in actions.items()}
    offers: Dict[str, str] = {}
    for argument in parser._actions:
        values = {} if argument.option_strings else _values(argument)
        if not values.keys() & set(before):  # not a second time
            offers = offers or values
    return offers


def _values(action: Action) -> Dict[str, str]:
    return FILES if action.metavar in _FILES else dict.fromkeys(action.choices or (), "")
