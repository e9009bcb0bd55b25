"""The text of the systemd units, from the choices alone: no I/O."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from .errors import EXIT_USAGE, InstallError
from .quoting import exec_line, plain_value

SERVICE = "llama-server.service"
PROXY_SOCKET = "llama-server-proxy.socket"
PROXY_SERVICE = "llama-server-proxy.service"
ALL_UNITS = (SERVICE, PROXY_SOCKET, PROXY_SERVICE)
MARK = "# Written by Flynn's scripts/install_service.py, which `make install-service` runs."

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8080  # llama-server's own
LONGEST_SOCKET_PATH = 107  # bytes: sun_path of unix(7), less the final NUL
RUNTIME_DIRECTORY = "llama-server"  # under XDG_RUNTIME_DIR
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
    """What the units are made from.

    Attributes:
        server, model: absolute paths of llama-server and of the model's first file.
        host, port, socket: where clients connect; a `socket` path is instead of host and port.
        ctx_size: tokens of context; gpu_layers: layers given to the GPU; parallel: slots, None for llama-server's own.
        alias: the model's name in the API. api_key_file: the file with the key, None for no key.
        extra: further arguments of llama-server.
        idle_seconds: None for a server that always runs; else it is started by the first connection and stopped so
            long after the last.
        wait_script, python: for `idle_seconds`: the program that waits until the model is loaded, and what runs it.
        proxyd: for `idle_seconds`: the path of systemd-socket-proxyd.
        runtime_dir: for `idle_seconds`: the user's XDG_RUNTIME_DIR.
    """

    server: str
    model: str
    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    socket: Optional[str] = None
    ctx_size: int = 8192
    gpu_layers: int = 99
    parallel: Optional[int] = None
    alias: Optional[str] = None
    api_key_file: Optional[str] = None
    extra: tuple[str, ...] = ()
    idle_seconds: Optional[float] = None
    wait_script: str = ""
    python: str = ""
    proxyd: str = ""
    runtime_dir: str = ""

    @property
    def backend(self) -> str:
        """Where llama-server listens behind the proxy: a socket that only this user can reach."""
        return f"{self.runtime_dir}/{RUNTIME_DIRECTORY}/backend.sock"

    @property
    def endpoint(self) -> str:
        """What a client on this machine is given."""
        if self.socket is not None:
            return f"unix://{self.socket}"
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


def arguments(choices: Choices) -> list[str]:
    """llama-server's arguments; what is the server's own default is left out."""
    words = ["-m", choices.model, "-ngl", str(choices.gpu_layers), "-c", str(choices.ctx_size)]
    listen = choices.backend if choices.idle_seconds is not None else choices.socket
    if listen is not None:
        words += ["--host", listen]
    else:
        words += ["--host", choices.host] if choices.host != DEFAULT_HOST else []
        words += ["--port", str(choices.port)] if choices.port != DEFAULT_PORT else []
    words += ["--parallel", str(choices.parallel)] if choices.parallel is not None else []
    words += ["--alias", choices.alias] if choices.alias is not None else []
    words += ["--api-key-file", choices.api_key_file] if choices.api_key_file is not None else []
    return words + list(choices.extra)


def unit_files(choices: Choices) -> dict[str, str]:
    """The units by name: one, or three for a server that is started on demand.

    Raises:
        InstallError: a path or name cannot be said in a unit file.
    """
    if choices.socket is not None:
        _check_socket(choices.socket)
    if choices.idle_seconds is None:
        return {SERVICE: _service(choices)}
    _check_socket(choices.backend)
    return {
        SERVICE: _service(choices),
        PROXY_SOCKET: _proxy_socket(choices),
        PROXY_SERVICE: _proxy_service(choices, choices.idle_seconds),
    }


def _service(choices: Choices) -> str:
    on_demand = choices.idle_seconds is not None
    unneeded = "# It runs as long as the proxy needs it.\nStopWhenUnneeded=yes\n" if on_demand else ""
    install = "" if on_demand else "\n[Install]\nWantedBy=default.target\n"
    return f"""\
{MARK}
[Unit]
Description=llama.cpp server
Documentation=https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md
After=network.target
# Five failed starts and it stays down: a model that cannot be loaded is not tried for ever.
StartLimitIntervalSec={LOAD_SECONDS}
StartLimitBurst=5
{unneeded}
[Service]
Type=exec
{_socket_lines(choices)}ExecStart={exec_line(choices.server, arguments(choices))}
{_SERVICE_SECTION}{install}"""


def _socket_lines(choices: Choices) -> str:
    """A folder for the backend's socket, and what removes a socket left behind: llama-server does not replace one."""
    on_demand = choices.idle_seconds is not None
    listen = choices.backend if on_demand else choices.socket
    if listen is None:
        return ""
    folder = f"RuntimeDirectory={RUNTIME_DIRECTORY}\nRuntimeDirectoryMode=0700\n" if on_demand else ""
    return f"{folder}ExecStartPre={exec_line('/bin/rm', ['-f', '--', listen])}\n"


def _proxy_socket(choices: Choices) -> str:
    if choices.socket is not None:
        listen, mode = choices.socket, "SocketMode=0600\nRemoveOnStop=yes\n"
    else:
        host = "127.0.0.1" if choices.host == "localhost" else choices.host
        if not all(char in "0123456789abcdefABCDEF.:" for char in host):
            raise InstallError(f"--host {host}: --on-demand needs an address in digits", status=EXIT_USAGE)
        listen, mode = f"[{host}]:{choices.port}" if ":" in host else f"{host}:{choices.port}", ""
    return f"""\
{MARK}
[Unit]
Description=The first connection starts the llama.cpp server
Documentation=man:systemd-socket-proxyd(8)

[Socket]
ListenStream={plain_value(listen, "--socket")}
{mode}
[Install]
WantedBy=sockets.target
"""


def _proxy_service(choices: Choices, idle_seconds: float) -> str:
    idle = max(1, math.ceil(idle_seconds))
    return f"""\
{MARK}
[Unit]
Description=Connections to the llama.cpp server; it stops when there are none
Documentation=man:systemd-socket-proxyd(8)
Requires={SERVICE} {PROXY_SOCKET}
After={SERVICE} {PROXY_SOCKET}

[Service]
# Connections wait in the socket's queue until the model is loaded.
ExecStartPre={exec_line(choices.python, [choices.wait_script, choices.backend, str(LOAD_SECONDS)])}
ExecStart={exec_line(choices.proxyd, [f"--exit-idle-time={idle}s", choices.backend])}
TimeoutStartSec={LOAD_SECONDS + 10}
NoNewPrivileges=yes
"""


def _check_socket(path: str) -> None:
    if not Path(path).is_absolute() or len(path.encode("utf-8", "surrogateescape")) > LONGEST_SOCKET_PATH:
        limit = f"an absolute path of at most {LONGEST_SOCKET_PATH} bytes"
        raise InstallError(f"--socket {path}: a socket needs {limit}", status=EXIT_USAGE)
    if not path.isprintable():
        raise InstallError(f"--socket {path!r}: control characters have no place in it", status=EXIT_USAGE)
    if not path.endswith(".sock"):
        raise InstallError(f"--socket {path}: llama-server wants a name that ends in .sock", status=EXIT_USAGE)
