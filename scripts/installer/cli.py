"""The command line: options, exit codes, and error output."""

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
from .plan import Session
from .uninstall import uninstall
from .unit import DEFAULT_HOST, DEFAULT_PORT

EXIT_CODES = """\
exit codes: 0 success; 1 failure; 2 usage error; 69 no systemd, no llama-server, or the service keeps failing;
75 try again later (an interrupted download is resumed); 130 interrupted"""

INSTALL_EXAMPLES = f"""\
examples:
  make install-service
  make install-service ARGS="--model auto --ctx-size 4096"
  make install-service ARGS="--model qwen3-8b --on-demand --idle 30"
  make install-service ARGS="--model ggml-org/gemma-3-4b-it-GGUF:Q4_K_M --api-key"
  make install-service ARGS="--model qwen3-4b --model ~/models/my.gguf"
  make install-service ARGS="--model ~/models/my.gguf --parallel 32 --throughput --dry-run"
  make install-service ARGS="--model Qwen/Qwen3-Embedding-0.6B-GGUF:Q8_0 --embeddings"

HF_ENDPOINT sets a mirror of the hub. HF_TOKEN, or the token stored by `hf auth login`, is sent only to that host.
Proxies are read from the environment.
{EXIT_CODES}"""

_OWN_OPTIONS = {  # llama-server options that --extra refuses because the installer has its own option for them
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
    """Run the command named by the first argument, `install` by default. Returns the exit code."""
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
        _say("\ninterrupted: run the same command again to resume")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _install(arguments: list[str]) -> int:
    options = _install_parser().parse_args(_with_equals_sign(arguments))
    if options.socket is not None and (options.host, options.port) != (DEFAULT_HOST, DEFAULT_PORT):
        raise InstallError("--socket cannot be combined with --host or --port", status=EXIT_USAGE)
    if options.idle != _IDLE_MINUTES and not options.on_demand:
        raise InstallError("--idle needs --on-demand", status=EXIT_USAGE)
    several = len(options.model or []) > 1
    for name in ("alias", "sha256", "embeddings"):
        if several and getattr(options, name):
            raise InstallError(f"--{name} needs exactly one --model", status=EXIT_USAGE)
    install(options, _session())
    return 0


def _uninstall(arguments: list[str]) -> int:
    parser = _parser("uninstall", "Stop the service and remove what the installer created. Downloaded models are kept.")
    parser.add_argument("--delete-model", action="store_true", help="also delete the downloaded models")
    parser.add_argument("--purge", action="store_true", help="also delete backups, corrupt files and partial downloads")
    parser.add_argument("--yes", action="store_true", help="also delete units that the installer did not write")
    uninstall(parser.parse_args(arguments), _session())
    return 0


def _status(arguments: list[str]) -> int:
    _parser("status", "Show the systemd status of the service.").parse_args(arguments)
    session = _session_with_systemd()
    present = units.present(session.places.unit_dir)
    if not present:
        raise InstallError("the service is not installed", hint="Run: make install-service", status=EXIT_UNAVAILABLE)
    command = ["systemctl", "--user", "status", "--no-pager", *present]
    return subprocess.run(command, env=systemd.environment(session.environ)).returncode


def _logs(arguments: list[str]) -> int:
    parser = _parser("logs", "Show the log of the service.")
    parser.add_argument("-f", "--follow", action="store_true", help="keep printing new log lines")
    parser.add_argument(
        "-n", "--lines", type=_integer(1, 10**9), default=100, help="number of recent lines to show (100)"
    )
    options = parser.parse_args(arguments)
    selected = [word for name in units.ALL_UNITS for word in ("-u", name)]
    command = ["journalctl", "--user", "--no-pager", "-n", str(options.lines), *selected]
    try:
        environment = systemd.environment(_session_with_systemd().environ)
        return subprocess.run([*command, "--follow"] if options.follow else command, env=environment).returncode
    except FileNotFoundError as error:
        raise InstallError("journalctl is not installed", status=EXIT_UNAVAILABLE) from error


_IDLE_MINUTES = 15.0


def _install_parser() -> argparse.ArgumentParser:
    parser = _parser(
        "install", "Run llama-server as a systemd user service: download a model, write the unit, start it, test it."
    )
    parser.epilog = INSTALL_EXAMPLES
    names = ", ".join(model.name for model in CATALOGUE)
    model = parser.add_argument_group("the model")
    text = f"one of {names}; auto (the largest of these that fits in memory and is fast enough); "
    text += "OWNER/REPO[:QUANT][@REVISION] or hf:OWNER/REPO/FILE[@REVISION] on the hub; a path; an https URL. "
    text += "Repeat the option to serve several models"
    model.add_argument("--model", action="append", metavar="MODEL", help=f"{text} ({DEFAULT.name})")
    model.add_argument(
        "--sha256", type=_comma_list, default=[], metavar="HEX[,HEX…]", help="SHA-256 of each file, in order"
    )
    model.add_argument("--models-dir", metavar="DIR", help="folder for models (flynn/models in XDG_DATA_HOME)")
    model.add_argument("--ignore-fit", action="store_true", help="install a model that does not seem to fit in memory")
    _add_server_options(parser.add_argument_group("the server"))
    service = parser.add_argument_group("the service")
    text = "free the model's memory when the server is idle, and load the model again on the next request"
    service.add_argument("--on-demand", action="store_true", help=text)
    text = "minutes without a request before the server counts as idle (15)"
    service.add_argument("--idle", type=_minutes, default=_IDLE_MINUTES, metavar="MINUTES", help=text)
    service.add_argument("--linger", action="store_true", help="start the service at boot, without a login")
    steps = parser.add_argument_group("the installation")
    steps.add_argument("--dry-run", action="store_true", help="print the unit and every step without changing anything")
    steps.add_argument("--print-unit", action="store_true", help="print only the unit")
    steps.add_argument(
        "--no-start", action="store_true", help="prepare everything and print the commands that start the service"
    )
    steps.add_argument("--yes", action="store_true", help="replace a different existing unit without asking")
    return parser


def _add_server_options(group: argparse._ArgumentGroup) -> None:
    text = "path of llama-server or of llama.cpp's llama (searched on PATH and in the usual folders)"
    group.add_argument("--server", metavar="PATH", help=text)
    group.add_argument("--host", type=_address, default=DEFAULT_HOST, help=f"address to listen on ({DEFAULT_HOST})")
    group.add_argument(
        "--port", type=_integer(1, 65535), default=DEFAULT_PORT, help=f"port to listen on ({DEFAULT_PORT})"
    )
    group.add_argument("--socket", metavar="PATH", help="listen on a UNIX socket instead; the name must end in .sock")
    group.add_argument(
        "--ctx-size", type=_integer(1, 2**31 - 1), default=8192, metavar="TOKENS", help="context size (8192)"
    )
    text = "layers to offload to the GPU; auto: as many as llama.cpp says fit (99: all)"
    group.add_argument("--gpu-layers", type=_layers, default="99", metavar="N|auto", help=text)
    group.add_argument(
        "--parallel", type=_integer(1, 4096), metavar="SLOTS", help="number of slots: requests served at the same time"
    )
    group.add_argument("--alias", metavar="NAME", help="the model's name in the API")
    group.add_argument(
        "--api-key", action="store_true", help="require an API key; it is generated and stored in a private file"
    )
    text = "serve embeddings instead of chat; POOLING: mean, cls, last or rank (the model's default)"
    pooling = ("mean", "cls", "last", "rank")
    group.add_argument("--embeddings", nargs="?", const="", choices=("", *pooling), metavar="POOLING", help=text)
    group.add_argument("--extra", type=_extra, default=[], metavar='"…"', help="additional llama-server options")
    group.add_argument(
        "--throughput", action="store_true", help="sample on the GPU: 1.6 times the tokens/s with 32 slots"
    )


def _parser(name: str, description: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=f"install_service.py {name}",
        description=description,
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def _with_equals_sign(arguments: list[str]) -> list[str]:
    """Replace `--extra WORDS` by `--extra=WORDS`: argparse refuses a separate value that starts with a dash."""
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
    options = [word.partition("=")[0] for word in words]
    for own_option, server_options in _OWN_OPTIONS.items():
        refused = next((option for option in options if option in server_options), None)
        if refused:
            raise argparse.ArgumentTypeError(f"{refused}: use the installer's own {own_option} instead")
    return words


def _comma_list(text: str) -> list[str]:
    return [part for part in text.split(",") if part.strip()]


def _address(text: str) -> str:
    if not re.fullmatch(r"[\w.:%-]+", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is not an address: write an IP address or an ASCII host name")
    return text


def _layers(text: str) -> str:
    return text if text == "auto" else str(_integer(0, 9999)(text))


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes <= 60 * 24 * 365:
        raise argparse.ArgumentTypeError(f"{text}: must be a number of minutes above 0, at most a year")
    return minutes


def _integer(minimum: int, maximum: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        number = int(text) if text.isascii() and text.isdigit() and len(text) < 12 else -1
        if not minimum <= number <= maximum:
            raise argparse.ArgumentTypeError(f"{text}: must be a whole number from {minimum} to {maximum}")
        return number

    return convert


def _session() -> Session:
    environ = dict(os.environ)
    return Session(environ, Places.from_environment(environ), _say, _ask)


def _session_with_systemd() -> Session:
    session = _session()
    problem = systemd.problem(session.environ)
    if problem:
        raise problem
    return session


def _say(text: str) -> None:
    """Print a line to standard error; escape characters that its encoding lacks."""
    encoding = sys.stderr.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), file=sys.stderr, flush=True)


def _ask(text: str) -> Optional[str]:
    if not (sys.stdin and sys.stdin.isatty()):
        return None
    sys.stderr.write(text)
    sys.stderr.flush()
    return sys.stdin.readline().strip()
