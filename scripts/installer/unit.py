"""The text of the systemd unit, from the choices alone: no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from .errors import EXIT_USAGE, InstallError
from .quoting import exec_line

SERVICE = "llama-server.service"
MARK = "# Written by Flynn's scripts/install_service.py, which `make install-service` runs."

DEFAULT_HOST = "127.0.0.1"  # llama-server's own
DEFAULT_PORT, NEW_PORT = 8080, 9931  # llama-server's own before build b11549, and since
LONGEST_SOCKET_PATH = 107  # bytes: sun_path of unix(7), less the final NUL
LOAD_SECONDS = 900  # a large model from a slow disk

_SERVICE_SECTION = """\
Restart=on-failure
RestartSec=2
# The whole group is gone within 30 s of a stop, and with it what the model took of main and GPU memory.
KillMode=mixed
TimeoutStopSec=30
# Under memory pressure the model goes before the desktop does; a dump of its memory helps nobody.
OOMScoreAdjust=300
LimitCORE=0
# What a user manager can enforce: it may drop no capabilities, and mounts nothing without user namespaces.
# MemoryDenyWriteExecute is left out: GPU drivers compile kernels at run time.
NoNewPrivileges=yes
LockPersonality=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
UMask=0077
"""


@dataclass(frozen=True)
class Choices:
    """What the unit is made from.

    Attributes:
        command: the words that start llama-server, the first an absolute path.
        model: the absolute path of the model's first file; empty for a server of the models in `presets`.
        presets: an INI file of llama-server's that names several models.
        host, port, socket: where clients connect; a `socket` path is instead of host and port.
        ctx_size: tokens of context. gpu_layers: layers given to the GPU, or `auto`. parallel: slots, None for
            llama-server's own number.
        alias: the model's name in the API. api_key_file: the file with the key, None for no key.
        pooling: of a server for embeddings, e.g. `mean`; empty for the model's own; None for a server that chats.
        idle_seconds: after so long without a request the model's memory is given back until the next; None for never.
        extra: further arguments of llama-server.
    """

    command: tuple[str, ...]
    model: str = ""
    presets: str = ""
    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    socket: Optional[str] = None
    ctx_size: int = 8192
    gpu_layers: str = "99"
    parallel: Optional[int] = None
    alias: Optional[str] = None
    api_key_file: Optional[str] = None
    pooling: Optional[str] = None
    idle_seconds: Optional[int] = None
    extra: tuple[str, ...] = ()

    @property
    def endpoint(self) -> str:
        """What a client on this machine is given."""
        if self.socket is not None:
            return f"unix://{self.socket}"
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


def arguments(choices: Choices) -> list[str]:
    """llama-server's arguments; what is the server's own default, or in `environment`, is left out."""
    words = ["-m", choices.model] if choices.model else ["--models-preset", choices.presets]
    words += ["-ngl", choices.gpu_layers, "-c", str(choices.ctx_size)]
    if choices.socket is not None:
        words += ["--host", choices.socket]
    else:
        words += ["--host", choices.host] if choices.host != DEFAULT_HOST else []
        words += ["--port", str(choices.port)] if choices.port != DEFAULT_PORT else []
    words += ["--parallel", str(choices.parallel)] if choices.parallel is not None else []
    words += ["--alias", choices.alias] if choices.alias is not None else []
    words += ["--api-key-file", choices.api_key_file] if choices.api_key_file is not None else []
    if choices.pooling is not None:
        # A text is pooled in one go: one that is longer than a micro-batch is answered with an error.
        batch = str(choices.ctx_size)
        words += ["--embeddings", *(["--pooling", choices.pooling] if choices.pooling else [])]
        words += ["--batch-size", batch, "--ubatch-size", batch]
    words += ["--sleep-idle-seconds", str(choices.idle_seconds)] if choices.idle_seconds is not None else []
    return words + list(choices.extra)


def environment(choices: Choices) -> dict[str, str]:
    """What llama-server is told besides its arguments, so that those stay the ones that everybody knows.

    The port is said even where it is the default: llama-server's own has changed. An origin that is not this machine's
    gets no permission to read answers: else every web page that the user opens may use the model.
    """
    port = {"LLAMA_ARG_PORT": str(DEFAULT_PORT)} if choices.socket is None and choices.port == DEFAULT_PORT else {}
    return {**port, "LLAMA_ARG_CORS_ORIGINS": "localhost"}


def by_hand(choices: Choices) -> list[str]:
    """The words that start the same server in a shell."""
    variables = [f"{name}={value}" for name, value in environment(choices).items()]
    return [*variables, *choices.command, *arguments(choices)]


def unit_file(choices: Choices) -> str:
    """The text of the unit.

    Raises:
        InstallError: a path or name cannot be said in a unit file.
    """
    if choices.socket is not None:
        _check_socket(choices.socket)
    lines = [f"Environment={name}={value}" for name, value in environment(choices).items()]
    if choices.socket is not None:  # llama-server does not replace a socket that was left behind
        lines.append(f"ExecStartPre={exec_line('/bin/rm', ['-f', '--', choices.socket])}")
    lines.append(f"ExecStart={exec_line(choices.command[0], [*choices.command[1:], *arguments(choices)])}")
    return f"""\
{MARK}
[Unit]
Description=llama.cpp server
Documentation=https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md
After=network.target
# Twenty starts within so many seconds and it stays down: a model that cannot be loaded is not tried for ever. Starts by
# hand count, too; `systemctl --user reset-failed llama-server` forgets them.
StartLimitIntervalSec={LOAD_SECONDS}
StartLimitBurst=20

[Service]
Type=exec
{chr(10).join(lines)}
{_SERVICE_SECTION}
[Install]
WantedBy=default.target
"""


def _check_socket(path: str) -> None:
    if not Path(path).is_absolute() or len(path.encode("utf-8", "surrogateescape")) > LONGEST_SOCKET_PATH:
        limit = f"an absolute path of at most {LONGEST_SOCKET_PATH} bytes"
        raise InstallError(f"--socket {path}: a socket needs {limit}", status=EXIT_USAGE)
    if not path.isprintable():
        raise InstallError(f"--socket {path!r}: control characters have no place in it", status=EXIT_USAGE)
    if not path.endswith(".sock"):
        raise InstallError(f"--socket {path}: llama-server wants a name that ends in .sock", status=EXIT_USAGE)
