"""The command line: options, exit codes, and how errors are shown."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from typing import Callable, Optional

from . import systemd, units
from .catalogue import CATALOGUE, DEFAULT
from .errors import EXIT_INTERRUPTED, EXIT_UNAVAILABLE, EXIT_USAGE, InstallError
from .install import install
from .places import Places
from .plan import Surroundings
from .uninstall import uninstall
from .unit import DEFAULT_HOST, DEFAULT_PORT

EXIT_CODES = """\
exit codes: 0 done; 1 failed; 2 usage; 69 no systemd, no llama-server, or the service does not stay up;
75 try again later (a download goes on where it stopped); 130 interrupted"""

INSTALL_EXAMPLES = f"""\
examples:
  make install-service
  make install-service ARGS="--model auto --ctx-size 4096"
  make install-service ARGS="--model qwen3-8b --on-demand --idle 30"
  make install-service ARGS="--model ggml-org/gemma-3-4b-it-GGUF:Q4_K_M --api-key"
  make install-service ARGS="--model qwen3-4b --model ~/models/my.gguf"
  make install-service ARGS="--model ~/models/my.gguf --parallel 32 --throughput --dry-run"
  make install-service ARGS="--model Qwen/Qwen3-Embedding-0.6B-GGUF:Q8_0 --embeddings"

HF_ENDPOINT names a mirror of the hub; HF_TOKEN, or the token of `hf auth login`, is sent to that host alone; proxies
are taken from the environment.
{EXIT_CODES}"""

_TAKEN = {  # options of llama-server that have a form of their own here
    "--model": ("-m", "--model", "-mu", "--model-url", "-hf", "-hfr", "--hf-repo", "--models-dir", "--models-preset"),
    "--host": ("--host",),
    "--port": ("--port",),
    "--ctx-size": ("-c", "--ctx-size"),
    "--gpu-layers": ("-ngl", "--gpu-layers", "--n-gpu-layers"),
    "--parallel": ("-np", "--parallel"),
    "--alias": ("-a", "--alias"),
    "--embeddings": ("--embedding", "--embeddings"),
    "--on-demand": ("--sleep-idle-seconds",),
    "--api-key": ("--api-key", "--api-key-file"),
}


def main(arguments: Sequence[str]) -> int:
    """Runs the command and returns its exit code: `install` unless the first argument says otherwise."""
    commands = {"install": _install, "uninstall": _uninstall, "status": _status, "logs": _logs}
    first = arguments[0] if arguments else ""
    command = commands.get(first)
    rest = list(arguments[1:] if command else arguments)
    try:
        return (command or _install)(rest)
    except InstallError as error:
        _say(f"error: {error}")
        if error.hint:
            _say(error.hint)
        return error.status
    except KeyboardInterrupt:
        _say("\ninterrupted: run it again and it goes on")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _install(arguments: list[str]) -> int:
    options = _install_parser().parse_args(_with_equals_sign(arguments))
    if options.socket is not None and (options.host, options.port) != (DEFAULT_HOST, DEFAULT_PORT):
        raise InstallError("--socket is instead of --host and --port", status=EXIT_USAGE)
    if options.idle != _IDLE_MINUTES and not options.on_demand:
        raise InstallError("--idle needs --on-demand", status=EXIT_USAGE)
    several = len(options.model or []) > 1
    for name in ("alias", "sha256", "embeddings"):
        if several and getattr(options, name):
            raise InstallError(f"--{name} is for one --model", status=EXIT_USAGE)
    install(options, _surroundings())
    return 0


def _uninstall(arguments: list[str]) -> int:
    parser = _parser("uninstall", "Stop the service and remove what the installer made; the model is kept.")
    parser.add_argument("--delete-model", action="store_true", help="delete the downloaded models, too")
    parser.add_argument("--purge", action="store_true", help="delete backups and files that were set aside, too")
    parser.add_argument("--yes", action="store_true", help="also remove units that the installer did not write")
    uninstall(parser.parse_args(arguments), _surroundings())
    return 0


def _status(arguments: list[str]) -> int:
    _parser("status", "Show what systemd knows of the service.").parse_args(arguments)
    around = _reachable()
    present = units.present(around.places.unit_dir)
    if not present:
        raise InstallError("the service is not installed", hint="make install-service", status=EXIT_UNAVAILABLE)
    command = ["systemctl", "--user", "status", "--no-pager", *present]
    return subprocess.run(command, env=systemd.environment(around.environ)).returncode


def _logs(arguments: list[str]) -> int:
    parser = _parser("logs", "Show the log of the service.")
    parser.add_argument("-f", "--follow", action="store_true", help="go on showing what comes")
    parser.add_argument("-n", "--lines", type=_whole(1, 10**9), default=100, help="the last lines to show (100)")
    options = parser.parse_args(arguments)
    wanted = [word for name in units.ALL_UNITS for word in ("-u", name)]
    command = ["journalctl", "--user", "--no-pager", "-n", str(options.lines), *wanted]
    try:
        environment = systemd.environment(_reachable().environ)
        return subprocess.run([*command, "--follow"] if options.follow else command, env=environment).returncode
    except FileNotFoundError as error:
        raise InstallError("journalctl is not installed", status=EXIT_UNAVAILABLE) from error


_IDLE_MINUTES = 15.0


def _install_parser() -> argparse.ArgumentParser:
    parser = _parser("install", "Make llama-server a systemd user service: model, unit, start, proof.")
    parser.epilog = INSTALL_EXAMPLES
    names = ", ".join(model.name for model in CATALOGUE)
    model = parser.add_argument_group("the model")
    text = f"{names}; auto (the largest of these that fits and is fast enough); OWNER/REPO[:QUANT][@REVISION] or "
    text += "hf:OWNER/REPO/FILE[@REVISION] on the hub; a path; an https address. Given again: one more model"
    model.add_argument("--model", action="append", metavar="MODEL", help=f"{text} ({DEFAULT.name})")
    model.add_argument("--sha256", type=_comma_list, default=[], metavar="HEX[,HEX…]", help="of each file, in order")
    model.add_argument("--models-dir", metavar="DIR", help="where models go (flynn/models under XDG_DATA_HOME)")
    model.add_argument("--ignore-fit", action="store_true", help="go on with a model that seems too big")
    _add_server_options(parser.add_argument_group("the server"))
    service = parser.add_argument_group("the service")
    text = "give the model's memory back when idle, and load it again with the next request"
    service.add_argument("--on-demand", action="store_true", help=text)
    text = "minutes without a request after which it is idle (15)"
    service.add_argument("--idle", type=_minutes, default=_IDLE_MINUTES, metavar="MINUTES", help=text)
    service.add_argument("--linger", action="store_true", help="run it from boot on, without a login")
    steps = parser.add_argument_group("the installation")
    steps.add_argument("--dry-run", action="store_true", help="show the unit and every step, and change nothing")
    steps.add_argument("--print-unit", action="store_true", help="print the unit, and nothing else")
    steps.add_argument("--no-start", action="store_true", help="prepare everything, and say how to go on")
    steps.add_argument("--yes", action="store_true", help="replace a unit that differs without asking")
    return parser


def _add_server_options(group: argparse._ArgumentGroup) -> None:
    text = "llama-server, or llama.cpp's llama (found on PATH and in the usual places)"
    group.add_argument("--server", metavar="PATH", help=text)
    group.add_argument("--host", type=_address, default=DEFAULT_HOST, help=f"address to listen at ({DEFAULT_HOST})")
    group.add_argument("--port", type=_whole(1, 65535), default=DEFAULT_PORT, help=f"({DEFAULT_PORT})")
    group.add_argument("--socket", metavar="PATH", help="listen at a UNIX socket instead; its name ends in .sock")
    group.add_argument("--ctx-size", type=_whole(1, 2**31 - 1), default=8192, metavar="TOKENS", help="(8192)")
    text = "layers given to the GPU; auto: as many as llama.cpp finds to fit (99: all)"
    group.add_argument("--gpu-layers", type=_layers, default="99", metavar="N|auto", help=text)
    group.add_argument("--parallel", type=_whole(1, 4096), metavar="SLOTS", help="requests served at the same time")
    group.add_argument("--alias", metavar="NAME", help="the model's name in the API")
    group.add_argument(
        "--api-key", action="store_true", help="ask clients for a key; it is generated, in a file of yours"
    )
    text = "serve embeddings instead of chat; how they are pooled: mean, cls, last (the model's own way)"
    pooling = ("mean", "cls", "last", "rank")
    group.add_argument("--embeddings", nargs="?", const="", choices=("", *pooling), metavar="POOLING", help=text)
    group.add_argument("--extra", type=_extra, default=[], metavar='"…"', help="further options of llama-server")
    group.add_argument("--throughput", action="store_true", help="sample on the GPU: 1.6 times the tokens on 32 slots")


def _parser(name: str, description: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=f"install_service.py {name}",
        description=description,
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def _with_equals_sign(arguments: list[str]) -> list[str]:
    """`--extra=WORDS` for `--extra WORDS`: argparse takes no value that begins with a dash otherwise."""
    joined: list[str] = []
    for word in arguments:
        if joined and joined[-1] == "--extra":
            joined[-1] = f"--extra={word}"
        else:
            joined.append(word)
    return joined


def _extra(text: str) -> list[str]:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error}".lower()) from error
    for ours, theirs in _TAKEN.items():
        taken = next((word for word in words if word.partition("=")[0] in theirs), None)
        if taken:
            raise argparse.ArgumentTypeError(f"{taken.partition('=')[0]}: use {ours} of this command")
    return words


def _comma_list(text: str) -> list[str]:
    return [part for part in text.split(",") if part.strip()]


def _address(text: str) -> str:
    if not re.fullmatch(r"[\w.:%-]+", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is not an address: write it in digits, or as a name in ASCII")
    return text


def _layers(text: str) -> str:
    return text if text == "auto" else str(_whole(0, 9999)(text))


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes <= 60 * 24 * 365:
        raise argparse.ArgumentTypeError(f"{text}: a number of minutes above 0")
    return minutes


def _whole(least: int, most: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        number = int(text) if text.isascii() and text.isdigit() and len(text) < 12 else -1
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(f"{text}: a whole number from {least} to {most}")
        return number

    return convert


def _surroundings() -> Surroundings:
    environ = dict(os.environ)
    return Surroundings(environ, Places.from_environment(environ), _say, _ask)


def _reachable() -> Surroundings:
    around = _surroundings()
    trouble = systemd.why_not(around.environ)
    if trouble:
        raise trouble
    return around


def _say(text: str) -> None:
    """To standard error, also where that cannot show every character."""
    encoding = sys.stderr.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), file=sys.stderr, flush=True)


def _ask(text: str) -> Optional[str]:
    if not (sys.stdin and sys.stdin.isatty()):
        return None
    sys.stderr.write(text)
    sys.stderr.flush()
    return sys.stdin.readline().strip()
