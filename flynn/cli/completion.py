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
    local IFS=$'\\n'
    COMPREPLY=($(flynn completion bash -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2> /dev/null || :))
    if [ "${COMPREPLY[*]-}" = FILES ]; then COMPREPLY=(); compopt -o default; fi
}
complete -F _flynn flynn
"""
_ZSH = """\
#compdef flynn
# Completion of flynn for zsh: eval "$(flynn completion zsh)" after compinit, or this as a file _flynn in $fpath
_flynn() {
    local -a offers=("${(@f)$(flynn completion zsh -- "${(@)words[2,CURRENT]}" 2> /dev/null)}")
    case $offers[1] in
        FILES:*) compset -P 1 '--*='; _files ;;
        ?*) _describe word offers ;;
    esac
}
if [[ $funcstack[1] == _flynn ]]; then _flynn "$@"; else compdef _flynn flynn; fi
"""
_FISH = """\
# Completion of flynn for fish: flynn completion fish > ~/.config/fish/completions/flynn.fish
function __flynn
    set -l words (commandline -opc) (commandline -ct)
    flynn completion fish -- $words[2..-1] 2> /dev/null
end
complete -c flynn -f -a '(__flynn | string match -v "FILES*")'
complete -c flynn -F -n '__flynn | string match -q "FILES*"'
"""
# By shell: its script, and the form of an offer and its help.
_SHELLS = {"bash": (_BASH, "{}"), "fish": (_FISH, "{}\t{}"), "zsh": (_ZSH, "{}:{}")}


def add_options(parser: Parser) -> None:
    parser.usage = "flynn completion SHELL"
    parser.add_argument("shell", metavar="SHELL", choices=sorted(_SHELLS), help=f"one of {', '.join(sorted(_SHELLS))}")
    parser.add_argument("words", nargs="*", metavar="WORD", help="for the scripts: print what the last one may become")


def run(given: Given, terminal: Terminal) -> int:
    script, form = _SHELLS[given.shell]
    if given.words:
        script = "".join(form.format(*offer) + "\n" for offer in offers_for(given.words).items())
    terminal.write(script)
    return DONE


def offers_for(words: Sequence[str]) -> Dict[str, str]:
    """Return what the last word after `flynn` may become, each with its help; `FILES` for the name of a file.

    Example:
        >>> offers_for(["ask", "--im"])
        {'--image': 'image to ask about (repeatable)'}
    """
    # bash takes --option=value apart: --option, =, value
    *before, word = "\0".join(words).replace("\0=", "=").replace("=\0", "=").split("\0")
    if not before or before == ["help"]:
        options = {"--help": "show help", "--version": "show the version"}
        named = COMMANDS if before else {**COMMANDS, "help": "Show the help of a command."}
        offers = options if word.startswith("-") else named
    elif before[0] not in COMMANDS:
        return {}
    else:
        offers = _in_command(load(before[0]), before[1:], word)
    return offers if offers is FILES else {offer: help for offer, help in offers.items() if offer.startswith(word)}


def _in_command(parser: Parser, before: Sequence[str], word: str) -> Dict[str, str]:
    actions = {} if "--" in before else {name: a for a in parser._actions for name in a.option_strings}
    name, equals, _ = word.partition("=")
    last = name if equals else before[-1] if before else ""
    if last in ("<", ">", ">>"):  # bash passes redirections on
        return FILES
    if last in actions and actions[last].nargs != 0:
        return _values(actions[last])
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
