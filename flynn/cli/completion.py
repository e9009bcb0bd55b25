"""`flynn completion`: scripts for shells, generated from the parsers of the commands."""

from __future__ import annotations

from argparse import Action
from typing import Callable, Dict, Iterable, List

from . import COMMANDS, load
from .exits import DONE
from .options import Given, Parser
from .terminal import Terminal

Commands = Dict[str, List[Action]]

EXAMPLES = """\
  eval "$(flynn completion bash)"                                     # in ~/.bashrc
  eval "$(flynn completion zsh)"                                      # in ~/.zshrc, after compinit
  flynn completion fish > ~/.config/fish/completions/flynn.fish"""

OFFLINE = True
_FILES = ("FILE", "FILE|URL", "INPUT", "OUTPUT")  # metavars of arguments that are files


def add_options(parser: Parser) -> None:
    parser.usage = "flynn completion SHELL"
    parser.add_argument("shell", metavar="SHELL", choices=sorted(_SHELLS), help=f"one of {', '.join(sorted(_SHELLS))}")


def run(given: Given, terminal: Terminal) -> int:
    terminal.write(_SHELLS[given.shell]({name: load(name)._actions for name in COMMANDS}) + "\n")
    return DONE


def _value(action: Action) -> str:
    """Return the metavar of its value; empty if it takes none."""
    return "" if action.nargs == 0 else str(action.metavar)


def _words(action: Action) -> str:
    """Return what its value may be, separated by spaces; FILES for a file, empty for anything."""
    return "FILES" if _value(action) in _FILES else " ".join(action.choices or ())


def _help(action: Action) -> str:
    return (action.help or "").replace("%%", "%")


def _quoted(text: str) -> str:
    """Return a text quoted as one word, for any of these shells."""
    return "'" + text.replace("'", "'\\''") + "'"


# --- bash -------------------------------------------------------------------------------------------------------------

_BASH = """\
# Completion of flynn for bash: eval "$(flynn completion bash)"
_flynn() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} IFS=$' \\t\\n'
    local option options files values arguments words=
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W '@commands@ --help --version' -- "$word"))
        return
    fi
    case ${COMP_WORDS[1]} in
@cases@
        *) return ;;
    esac
    # What an argument may be is not offered a second time.
    for option in "${COMP_WORDS[@]:2:COMP_CWORD-2}"; do
        case " $arguments " in *" $option "*) arguments= ;; esac
    done
    # bash takes --option=value apart: --option, =, value
    option=$before
    if [ "$word" = = ]; then word=; elif [ "$before" = = ]; then option=${COMP_WORDS[COMP_CWORD-2]}; fi
    case " $files " in *" $option "*) words=FILES ;; esac
    case " $values " in *" $option "*) return ;; esac
    if [ -z "$words" ]; then case $word in -*) words=$options ;; *) words=$arguments ;; esac; fi
    if [ "$words" != FILES ]; then
        COMPREPLY=($(compgen -W "$words" -- "$word"))
        return
    fi
    compopt -o filenames 2> /dev/null
    while IFS= read -r word; do COMPREPLY+=("$word"); done < <(compgen -f -- "$word")
}
complete -F _flynn flynn"""


def _bash(commands: Commands) -> str:
    cases = []
    for name, actions in commands.items():
        values = [action for action in actions if _value(action)]
        words = {
            "options": _names(actions),
            "files": _names(action for action in values if _words(action) == "FILES"),
            "values": _names(action for action in values if _words(action) != "FILES"),
            "arguments": " ".join(_words(action) for action in actions if not action.option_strings),
        }
        cases.append(f"        {name}) {' '.join(f'{kind}={_quoted(list)}' for kind, list in words.items())} ;;")
    return _BASH.replace("@commands@", " ".join(commands)).replace("@cases@", "\n".join(cases))


def _names(actions: Iterable[Action]) -> str:
    return " ".join(name for action in actions for name in action.option_strings)


# --- zsh --------------------------------------------------------------------------------------------------------------

_ZSH = """\
#compdef flynn
# Completion of flynn for zsh: eval "$(flynn completion zsh)" after compinit, or this as a file _flynn in $fpath
_flynn() {
    local -a commands=(
@commands@
    )
    if (( CURRENT == 2 )); then
        if [[ $words[2] == -* ]]; then compadd -- --help --version; else _describe command commands; fi
        return
    fi
    shift words
    (( CURRENT-- ))
    case $words[1] in
@cases@
    esac
}
if [[ $funcstack[1] == _flynn ]]; then _flynn "$@"; else compdef _flynn flynn; fi"""


def _zsh(commands: Commands) -> str:
    described = "\n".join(f"        {_quoted(f'{name}:{purpose}')}" for name, purpose in COMMANDS.items())
    cases = []
    for name, actions in commands.items():
        specs = " \\\n            ".join(_quoted(spec) for action in actions for spec in _zsh_specs(action))
        cases.append(f"        {name}) _arguments -S \\\n            {specs} ;;")
    return _ZSH.replace("@commands@", described).replace("@cases@", "\n".join(cases))


def _zsh_specs(action: Action) -> List[str]:
    """Return the arguments of zsh's `_arguments` for an action; see zshcompsys(1)."""
    completes = "_files" if _words(action) == "FILES" else f"({_words(action) or ' '})"
    value = f":{_value(action).replace(':', '/')}:{completes}" if _value(action) else ""
    names, repeatable = action.option_strings, action.nargs == "*" or "(repeatable)" in _help(action)
    if not names:
        return [f"*{value}" if repeatable else value]
    help = "".join(f"\\{letter}" if letter in "[]:\\" else letter for letter in _help(action))
    # An option that was given is not offered again, under no other name of it.
    others = "*" if repeatable else f"({' '.join(names)})"
    return [f"{others}{name}{'=' if value and name.startswith('--') else ''}[{help}]{value}" for name in names]


# --- fish -------------------------------------------------------------------------------------------------------------


def _fish(commands: Commands) -> str:
    lines = [
        "# Completion of flynn for fish: flynn completion fish > ~/.config/fish/completions/flynn.fish",
        "complete -c flynn -f",
        "complete -c flynn -n __fish_use_subcommand -l help -d 'show help'",
        "complete -c flynn -n __fish_use_subcommand -l version -d 'show version'",
    ]
    for name, purpose in COMMANDS.items():
        lines.append(f"complete -c flynn -n __fish_use_subcommand -a {name} -d {_quoted(purpose)}")
    for name, actions in commands.items():
        for action in actions:
            names, words, condition = action.option_strings, _words(action), f"__fish_seen_subcommand_from {name}"
            parts = [f"-l {option[2:]}" if option.startswith("--") else f"-s {option[1:]}" for option in names]
            if names:
                parts.append(f"-d {_quoted(_help(action))}")
            elif words and words != "FILES":  # not to be offered a second time
                condition += f"; and not __fish_seen_subcommand_from {words}"
            if words == "FILES":
                parts.append("-r -F" if names else "-F")
            elif words:
                parts.append(f"-x -a {_quoted(words)}")
            elif names and _value(action):
                parts.append("-x")
            if parts:
                lines.append(f"complete -c flynn -n {_quoted(condition)} {' '.join(parts)}")
    return "\n".join(lines)


_SHELLS: Dict[str, Callable[[Commands], str]] = {"bash": _bash, "fish": _fish, "zsh": _zsh}
