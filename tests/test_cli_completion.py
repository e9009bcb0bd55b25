"""`flynn completion`, in the real shells."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from typing import Callable, List

import pytest
from command import FLYNN, Home, Terminal, environment
from scripted import eventually

from flynn.cli import COMMANDS, load

# What is typed, and what it becomes where that is one thing.
COMPLETED = {
    "flynn st": "flynn status",
    "flynn comp": "flynn completion",
    "flynn ask --im": "flynn ask --image",
    "flynn ask --tool x:y --json-s": "flynn ask --tool x:y --json-schema",
    "flynn chat --summ": "flynn chat --summarise",
    "flynn batch --max-f": "flynn batch --max-failures",
    "flynn completion z": "flynn completion zsh",
    "flynn models lo": "flynn models load",
    "flynn models --json unl": "flynn models --json unload",
    "flynn ask --json-schema sch": "flynn ask --json-schema schema",
    "flynn batch -o que": "flynn batch -o questions",
    "flynn batch que": "flynn batch questions",
    "flynn status --config=que": "flynn status --config=questions",
    "flynn help comp": "flynn help completion",
}
# The same for files that the shells complete themselves.
FILES = {
    "flynn batch a": r"flynn batch a\ b",
    'flynn batch "a': 'flynn batch "a b"',
    "flynn batch ~/que": "flynn batch ~/questions",
    "flynn batch sub/": "flynn batch sub/inner",
    "flynn batch --template=sub/": "flynn batch --template=sub/inner",
    "flynn ask - < que": "flynn ask - < questions",
    "flynn ask Hi > que": "flynn ask Hi > questions",
}
# Where bash and zsh differ on their own.
OWN_FILES = {
    "bash": {'flynn batch "$HOME/que': 'flynn batch "$HOME/questions"'},
    "zsh": {"flynn batch --template=eq=": "flynn batch --template=eq=x"},
}
# What stays as it is: numbers, texts, and what is unknown.
NOT_COMPLETED = [
    "flynn ask --temperature sch",
    "flynn tokens sch",
    "flynn nope --",
    "flynn status --xyz",
    "flynn models load sch",
    "flynn models load unl",
    "flynn ask -- --im",
]


def shell(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        assert os.environ.get("CI") != "true", f"{name} is missing"
        pytest.skip(f"no {name}")
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("home"))
    (home.path / "sub").mkdir()
    for name in "schema", "questions", "a b", "eq=x", "-dash", "sub/inner":
        home.write(name, "")
    for name in "bash", "zsh", "fish":
        ended = home.run("completion", name)
        assert (ended.code, ended.err) == (0, "")
        home.write(f"flynn.{name}", ended.out)
    (home.path / "bin").mkdir()
    home.write("bin/flynn", f'#!/bin/sh\nexec {shlex.join(FLYNN)} "$@"\n', 0o755)
    home.variables["PATH"] = f"{home.path}/bin{os.pathsep}{os.environ['PATH']}"
    return home


def run(home: Home, *command: str) -> str:
    ended = subprocess.run(
        command,
        cwd=home.path,
        env=environment(home.path, **home.variables),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.stderr == ""
    return ended.stdout


def in_bash(home: Home, typed: str) -> List[str]:
    """What bash would offer in place of the last word."""
    # As readline takes a line apart: = is a word of its own.
    words = typed.replace("=", " = ").split(" ")
    quoted = " ".join(f"'{word}'" for word in words)
    script = f"COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _flynn; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    return run(home, shell("bash"), "--norc", "-c", f". ./flynn.bash; {script}").splitlines()


def in_fish(home: Home, typed: str) -> List[str]:
    """What fish would offer in place of the last word."""
    script = f"source flynn.fish; complete -C '{typed}'"
    return [line.partition("\t")[0] for line in run(home, shell("fish"), "--no-config", "-c", script).splitlines()]


def last_word(line: str) -> str:
    return line.rpartition(" ")[2]


@pytest.mark.parametrize("typed", COMPLETED)
def test_fish_completes(home: Home, typed: str) -> None:
    assert in_fish(home, typed) == [last_word(COMPLETED[typed])]


def test_fish_completes_files_as_for_any_command(home: Home) -> None:
    assert "a b" in in_fish(home, "flynn batch ")
    for typed in FILES:
        offered = in_fish(home, typed.replace("'", "\\'"))
        assert offered == in_fish(home, typed.replace("flynn", "cat", 1)) != [], typed


def test_only_files_and_known_values_are_offered(home: Home) -> None:
    for typed in NOT_COMPLETED:
        assert [offer for offer in in_fish(home, typed) if offer] == []


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("complete", [in_bash, in_fish])
def test_every_option_of_every_command_is_offered(
    home: Home, complete: Callable[[Home, str], List[str]], command: str
) -> None:
    options = {option for option in load(command)._option_string_actions if option.startswith("--")}
    offered = {offer.rstrip("=") for offer in complete(home, f"flynn {command} --") if offer.startswith("--")}
    assert offered == options


def test_commands_are_offered(home: Home) -> None:
    for complete in in_bash, in_fish:
        assert set(complete(home, "flynn ")) == {*COMMANDS, "help"}
        assert set(complete(home, "flynn --")) == {"--help", "--version"}
        assert set(complete(home, "flynn help ")) == set(COMMANDS)


def test_the_actions_of_models_are_offered(home: Home) -> None:
    for complete in in_bash, in_fish:
        assert set(complete(home, "flynn models ")) == {"list", "load", "unload", "download", "delete"}


# ^G tells what is typed: unlike ^X, no other binding begins with it, so the shell waits for nothing more.
_ZSHRC = """
autoload -Uz compinit
compinit -u -D
eval "$(< flynn.zsh)" 2> errors
tell() { print -r -- "$BUFFER" >> zsh.completed; BUFFER= }
zle -N tell
bindkey '^G' tell
PS1='ready> '
"""
_BASHRC = """
eval "$(< flynn.bash)" 2> errors
tell() { printf '%s\\n' "$READLINE_LINE" >> bash.completed; READLINE_LINE=; }
bind -x '"\\C-g": tell'
set -u
PS1='ready> '
"""


@pytest.mark.parametrize(
    ("name", "options"), [("bash", ["--rcfile", ".bashrc", "-i"]), ("zsh", ["-d", "-i"])], ids=["bash", "zsh"]
)
def test_a_line_is_completed(home: Home, name: str, options: List[str]) -> None:
    home.write(".zshrc", _ZSHRC)
    home.write(".bashrc", _BASHRC)
    cases = {**COMPLETED, **FILES, **OWN_FILES[name], **{line: line for line in NOT_COMPLETED}}
    cases.update({f"flynn {command} --hel": f"flynn {command} --help" for command in COMMANDS})
    completed = home.path / f"{name}.completed"
    environ = environment(home.path, TERM="dumb", **home.variables)
    with Terminal([shell(name), *options], home.path, environ) as terminal:
        terminal.expect("ready> ")
        for number, typed in enumerate(cases):
            terminal.type(f"{typed}\t\a")
            eventually(lambda: completed.exists() and completed.read_text().count("\n") > number)  # noqa: B023
        terminal.type("exit\n")
        terminal.end()
    lines = [line.rstrip(" =/") for line in completed.read_text().splitlines()]
    assert dict(zip(cases, lines)) == cases
    assert (home.path / "errors").read_text() == ""
    assert "_arguments" not in terminal.text
    assert "unbound" not in terminal.text


def test_another_shell_is_one_line(home: Home) -> None:
    ended = home.run("completion", "tcsh")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("flynn: argument SHELL: invalid choice: 'tcsh'")
