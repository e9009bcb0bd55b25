"""`flynn completion`: what a shell needs to complete the command line, made from the parsers of the commands."""

from __future__ import annotations

from ..dataclass import dataclass
from . import COMMANDS, load
from .exits import DONE

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Callable, Dict, Iterable, List, Sequence

    from .options import Given, Parser
    from .screen import Screen

EXAMPLES = """\
  eval "$(flynn completion bash)"                                     # in ~/.bashrc
  eval "$(flynn completion zsh)"                                      # in ~/.zshrc, after compinit
  flynn completion fish > ~/.config/fish/completions/flynn.fish"""

OFFLINE = True
_FILES = ("FILE", "FILE|URL", "INPUT", "OUTPUT")  # what an argument that is a file is called


def add_options(parser: Parser) -> None:
    parser.usage = "flynn completion SHELL"
    parser.add_argument("shell", metavar="SHELL", choices=sorted(_SHELLS), help=f"one of {', '.join(sorted(_SHELLS))}")


def run(given: Given, screen: Screen) -> int:
    script = _SHELLS[given.shell]({name: _arguments(load(name)[1]) for name in COMMANDS})
    screen.write(script + "\n")
    return DONE


@dataclass(frozen=True)
class _Argument:
    """An option of a command, or where `names` is empty what stands without one.

    Attributes:
        value: what its value is called; empty if it takes none.
        choices: the values that it may have; empty if these are not all.
        repeatable: whether it may come more than once.
    """

    names: Sequence[str]
    help: str
    value: str
    choices: Sequence[str]
    repeatable: bool

    @property
    def is_file(self) -> bool:
        return self.value in _FILES


def _arguments(parser: Parser) -> List[_Argument]:
    return [_argument(action) for action in parser._actions]


def _argument(action: argparse.Action) -> _Argument:
    value = "" if action.nargs == 0 else str(action.metavar or action.dest.upper())
    repeatable = action.nargs == "*" or "(repeatable)" in (action.help or "")
    help = (action.help or "").replace("%%", "%")
    return _Argument(action.option_strings, help, value, list(map(str, action.choices or ())), repeatable)


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


def _bash(commands: Dict[str, List[_Argument]]) -> str:
    cases = []
    for name, arguments in commands.items():
        options = [argument for argument in arguments if argument.names]
        files = _names(option for option in options if option.is_file)
        values = _names(option for option in options if option.value and not option.is_file)
        words = " ".join("FILES" if it.is_file else " ".join(it.choices) for it in arguments if not it.names)
        cases.append(
            f"        {name}) options='{_names(options)}' files='{files}' values='{values}' arguments='{words}' ;;"
        )
    return _filled(_BASH, commands=" ".join(commands), cases="\n".join(cases))


def _names(options: Iterable[_Argument]) -> str:
    return " ".join(name for option in options for name in option.names)


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


def _zsh(commands: Dict[str, List[_Argument]]) -> str:
    described = "\n".join(f"        {_quoted(f'{name}:{purpose}')}" for name, purpose in COMMANDS.items())
    cases = []
    for name, arguments in commands.items():
        specs = " \\\n            ".join(_quoted(spec) for argument in arguments for spec in _zsh_specs(argument))
        cases.append(f"        {name}) _arguments -S \\\n            {specs} ;;")
    return _filled(_ZSH, commands=described, cases="\n".join(cases))


def _zsh_specs(argument: _Argument) -> List[str]:
    """The arguments of zsh's `_arguments` for one of ours; see zshcompsys(1)."""
    action = "_files" if argument.is_file else f"({' '.join(argument.choices) or ' '})"
    value = f":{argument.value.replace(':', '/')}:{action}" if argument.value else ""
    if not argument.names:
        return [f"*{value}" if argument.repeatable else value]
    help = "".join(f"\\{letter}" if letter in "[]:\\" else letter for letter in argument.help)
    # An option that was given is not offered again, under no other name of it.
    others = "*" if argument.repeatable else f"({' '.join(argument.names)})"
    return [f"{others}{name}{'=' if value and name.startswith('--') else ''}[{help}]{value}" for name in argument.names]


# --- fish -------------------------------------------------------------------------------------------------------------


def _fish(commands: Dict[str, List[_Argument]]) -> str:
    lines = [
        "# Completion of flynn for fish: flynn completion fish > ~/.config/fish/completions/flynn.fish",
        "complete -c flynn -f",
        "complete -c flynn -n __fish_use_subcommand -l help -d 'show help'",
        "complete -c flynn -n __fish_use_subcommand -l version -d 'show version'",
    ]
    for name, purpose in COMMANDS.items():
        lines.append(f"complete -c flynn -n __fish_use_subcommand -a {name} -d {_quoted(purpose)}")
    for name, arguments in commands.items():
        for argument in arguments:
            if not (argument.names or argument.is_file or argument.choices):
                continue
            words = [f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in argument.names]
            if argument.names:
                words.append(f"-d {_quoted(argument.help)}")
            if argument.is_file:
                words.append("-r -F" if argument.names else "-F")
            elif argument.choices:
                words.append(f"-x -a {_quoted(' '.join(argument.choices))}")
            elif argument.value:
                words.append("-x")
            lines.append(f"complete -c flynn -n '__fish_seen_subcommand_from {name}' {' '.join(words)}")
    return "\n".join(lines)


def _quoted(text: str) -> str:
    """As one word, for any of these shells."""
    return "'" + text.replace("'", "'\\''") + "'"


def _filled(template: str, **places: str) -> str:
    for name, text in places.items():
        template = template.replace(f"@{name}@", text)
    return template


_SHELLS: Dict[str, Callable[[Dict[str, List[_Argument]]], str]] = {"bash": _bash, "fish": _fish, "zsh": _zsh}
