"""Build the text of the systemd unit. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from .errors import EXIT_USAGE, InstallError
from .quoting import exec_line

SERVICE = "llama-server.service"
MARK = "# Written by Flynn's scripts/install_service.py, which `make install-service` runs."

DEFAULT_HOST = "127.0.0.1"  # llama-server's default, too
DEFAULT_PORT, NEW_PORT = 8080, 9931  # llama-server's default before build b11549, and since
MAX_SOCKET_PATH_BYTES = 107  # bytes: sun_path of unix(7), less the final NUL
LOAD_SECONDS = 900  # longest time to load a model: a large one from a slow disk

_SERVICE_SECTION = """\
Restart=on-failure
RestartSec=2
# All processes of the service end within 30 s of a stop, which frees their main and GPU memory.
KillMode=mixed
TimeoutStopSec=30
# If memory runs out, kill the model before the desktop. Write no core dump: it would be as large as the model.
OOMScoreAdjust=300
LimitCORE=0
# Only settings that a user manager can enforce: it cannot drop capabilities, or mount without user namespaces.
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
    """The options that the unit is built from.

    Attributes:
        command: the command line of llama-server; the first word is an absolute path.
        model: the absolute path of the model's first file; empty if `presets` lists the models.
        presets: the path of llama-server's INI file of models; empty for a single model.
        host, port: the address to listen on.
        socket: the path of a UNIX socket to listen on instead; None for host and port.
        ctx_size: context size in tokens.
        gpu_layers: layers to offload to the GPU, or `auto`.
        parallel: number of slots; None for llama-server's default.
        alias: the model's name in the API.
        api_key_file: the file with the API key; None for no key.
        pooling: pooling of a server for embeddings, e.g. `mean`; empty for the model's default; None for chat.
        idle_seconds: seconds without a request before the model's memory is freed; None for never.
        extra: additional llama-server arguments.
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
        """The URL for clients on this machine."""
        if self.socket is not None:
            return f"unix://{self.socket}"
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


def arguments(choices: Choices) -> list[str]:
    """Return llama-server's arguments, without its defaults and without the options in `environment`."""
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
        # llama-server pools a text in one micro-batch and refuses a longer text, so both batches get the context size.
        batch = str(choices.ctx_size)
        words += ["--embeddings", *(["--pooling", choices.pooling] if choices.pooling else [])]
        words += ["--batch-size", batch, "--ubatch-size", batch]
    words += ["--sleep-idle-seconds", str(choices.idle_seconds)] if choices.idle_seconds is not None else []
    return words + list(choices.extra)


def environment(choices: Choices) -> dict[str, str]:
    """Return the options that are set by environment variables, which keeps the command line short.

    The default port is set, too, because llama-server's default has changed. Only web pages from localhost may read
    responses: otherwise every web page that the user opens could use the model.
    """
    port = {"LLAMA_ARG_PORT": str(DEFAULT_PORT)} if choices.socket is None and choices.port == DEFAULT_PORT else {}
    return {**port, "LLAMA_ARG_CORS_ORIGINS": "localhost"}


def shell_words(choices: Choices) -> list[str]:
    """Return the arguments of env(1) that start the same server without systemd."""
    variables = [f"{name}={value}" for name, value in environment(choices).items()]
    return [*variables, *choices.command, *arguments(choices)]


def unit_file(choices: Choices) -> str:
    """Return the text of the unit.

    Raises:
        InstallError: a path or name cannot be written in a unit file.
    """
    if choices.socket is not None:
        _check_socket(choices.socket)
    lines = [f"Environment={name}={value}" for name, value in environment(choices).items()]
    if choices.socket is not None:  # llama-server does not replace a leftover socket
        lines.append(f"ExecStartPre={exec_line('/bin/rm', ['-f', '--', choices.socket])}")
    lines.append(f"ExecStart={exec_line(choices.command[0], [*choices.command[1:], *arguments(choices)])}")
    return f"""\
{MARK}
[Unit]
Description=llama.cpp server
Documentation=https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md
After=network.target
# After 20 starts within this time systemd gives up, so that a model that cannot be loaded is not retried forever.
# Manual starts count, too. `systemctl --user reset-failed llama-server` resets the count.
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
    if not Path(path).is_absolute() or len(path.encode("utf-8", "surrogateescape")) > MAX_SOCKET_PATH_BYTES:
        rule = f"must be an absolute path of at most {MAX_SOCKET_PATH_BYTES} bytes"
        raise InstallError(f"--socket {path}: {rule}", status=EXIT_USAGE)
    if not path.isprintable():
        raise InstallError(f"--socket {path!r}: must not contain control characters", status=EXIT_USAGE)
    if not path.endswith(".sock"):
        raise InstallError(f"--socket {path}: must end in .sock, as llama-server requires", status=EXIT_USAGE)
