"""`make demo` and `make serve`: run a real model on this machine; only Python has to be installed.

    python3 scripts/demo.py                          # a conversation on a terminal
    echo "Why is the sky blue?" | python3 scripts/demo.py
    PROMPT="Why is the sky blue?" python3 scripts/demo.py
    python3 scripts/demo.py serve                    # only the server, on port 8080 ($PORT), until Ctrl-C

Installs Flynn in its own environment, gets a llama.cpp server and a small model (see environment.py), starts the
server, runs `flynn chat` with it, and stops it. Answers go to standard output, everything else to standard error.
`serve` uses a chat template with tools and 4 slots of 2,048 tokens, the model's maximum.
Exit codes: those of `flynn chat`; 1 if there is no server; 2 usage error; 130 interrupted.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List

import environment  # must come first: it prints a message if Python is too old
from real_server import RealServer, ServerFailed

TEMPLATE = environment.ROOT / "tests" / "data" / "tools.jinja"  # a template with tools, in the format of Qwen 2.5
MODEL = "SmolLM2-135M-Instruct"
TOY = f"{MODEL} is a toy of 135 million parameters: it shows how Flynn works, not what a model can do."

SAMPLING: Dict[str, Any] = {"temp": 0.2, "top_p": 0.9}  # recommended by the model card


def main(arguments: List[str]) -> int:
    if arguments not in ([], ["serve"]):
        print("usage: demo.py [serve]", file=sys.stderr)
        return 2
    # By default SIGTERM ends the process without running the code that stops the server.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        return serve() if arguments else demo()
    except (environment.Unavailable, ServerFailed) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def demo() -> int:
    """Chat with the model. Returns the exit code of `flynn chat`."""
    flynn = environment.installed().with_name("flynn")
    # Without a limit such a small model may never stop.
    server = RealServer(parallel=1, threads=None, predict=256, **SAMPLING)
    print(f"Starting a llama.cpp server with {MODEL} ...\n{TOY}", file=sys.stderr, flush=True)
    with server:
        command = flynn.relative_to(environment.ROOT)
        print(f"Ready at {server.endpoint}; the command is {command}", file=sys.stderr, flush=True)
        return chat(flynn, server.endpoint)


def serve() -> int:
    """Run the server at Flynn's default endpoint until Ctrl-C, or until the server ends."""
    port = int(os.environ.get("PORT") or 8080)
    try:
        server = RealServer(
            port=port, parallel=4, ctx_size=4 * 2048, chat_template_file=TEMPLATE, metrics=True, **SAMPLING
        )
    except OSError as error:
        raise ServerFailed(
            f"port {port}: {error.strerror}; stop the program that listens there, or set PORT="
        ) from None
    print(f"Starting a llama.cpp server with {MODEL} ...\n{TOY}", file=sys.stderr, flush=True)
    with server:
        print(f"Ready at http://localhost:{port}; Ctrl-C stops it", file=sys.stderr, flush=True)
        try:
            while server.pid:
                time.sleep(0.5)
        except KeyboardInterrupt:
            return 0
    raise ServerFailed("the server ended unexpectedly")


def chat(flynn: Path, endpoint: str) -> int:
    """Run `flynn chat` as a user would. Returns its exit code."""
    # From here on Ctrl-C stops an answer of the chat, not this program. A handler is not inherited; SIG_IGN would be.
    signal.signal(signal.SIGINT, lambda *_: None)
    prompt = os.environ.get("PROMPT")
    code = subprocess.run(
        [flynn, "chat", "--endpoint", endpoint],
        input=f"{prompt}\n".encode() if prompt else None,
    ).returncode
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
