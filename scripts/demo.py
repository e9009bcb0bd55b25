"""`make demo`: a chat with a real model on this machine, from nothing but Python.

    python3 scripts/demo.py                          # a conversation, on a terminal
    echo "Why is the sky blue?" | python3 scripts/demo.py
    PROMPT="Why is the sky blue?" python3 scripts/demo.py

Installs Flynn in an environment of its own, makes a llama.cpp server and a small model ready (see environment.py),
starts the server, runs `flynn chat` with it, and stops it. Answers go to standard output, all else to standard error.
Exit codes: those of `flynn chat`; 1 when there is no server to be had; 130 interrupted.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import environment  # first of ours: it is what an old Python can still read
from real_server import RealServer, ServerFailed


def main() -> int:
    # Without this SIGTERM would end the process past all that stops the server.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        flynn = environment.installed().with_name("flynn")
        # So small a model may go on for ever.
        server = RealServer(parallel=1, threads=None, predict=256)
        print("Starting a llama.cpp server with SmolLM2-135M-Instruct ...", file=sys.stderr, flush=True)
        with server:
            command = flynn.relative_to(environment.ROOT)
            print(f"Ready at {server.endpoint}; the command is {command}", file=sys.stderr, flush=True)
            return chat(flynn, server.endpoint)
    except (environment.Unavailable, ServerFailed) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def chat(flynn: Path, endpoint: str) -> int:
    """Run `flynn chat` as a user would, and return its exit code."""
    # From here on Ctrl-C is for the chat, where it stops an answer and not the program. A handler, unlike SIG_IGN, is
    # not inherited.
    signal.signal(signal.SIGINT, lambda *_: None)
    prompt = os.environ.get("PROMPT")
    code = subprocess.run(
        [flynn, "chat", "--endpoint", endpoint],
        input=f"{prompt}\n".encode() if prompt else None,
    ).returncode
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
