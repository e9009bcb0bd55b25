"""A server that answers every chat at once with the same text, for tests that would take hours with a real server.

    python scripts/canned_server.py [--port N] [--slots N] [--delay SECONDS] [--log FILE]

It prints its endpoint, and answers `/slots`, `/props` and `/health` as llama-server does. It appends the prompts to
FILE, one JSON string a line, in the order of its responses.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from typing import IO, List, Optional

REPLY = {
    "choices": [
        {
            "finish_reason": "stop",
            "index": 0,
            "message": {"role": "assistant", "content": "The sky is blue since air scatters blue light most."},
        }
    ],
    "created": 1700000000,
    "model": "canned",
    "system_fingerprint": "b11549-0000000",
    "object": "chat.completion",
    "usage": {
        "completion_tokens": 12,
        "prompt_tokens": 36,
        "total_tokens": 48,
        "prompt_tokens_details": {"cached_tokens": 27},
    },
    "id": "chatcmpl-fvOtcjX3SXTaGB1q3beIZWFSpVJBKPBH",
    "timings": {
        "cache_n": 27,
        "prompt_n": 9,
        "prompt_ms": 20.123,
        "prompt_per_token_ms": 2.236,
        "prompt_per_second": 447.2,
        "predicted_n": 12,
        "predicted_ms": 120.5,
        "predicted_per_token_ms": 10.04,
        "predicted_per_second": 99.6,
    },
}


def _response(value: object) -> bytes:
    body = json.dumps(value, separators=(",", ":")).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"Keep-Alive: timeout=5, max=100\r\n\r\n" + body


class Server:
    """The server.

    Args:
        slots: the number of slots that it reports.
        delay: seconds before each response.
        log: the file for the prompts; None for no log.
    """

    def __init__(self, slots: int, delay: float, log: Optional[IO[str]]) -> None:
        self.slots, self.delay, self.log = slots, delay, log
        self.busy = 0
        self.reply = _response(REPLY)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of a connection until the client closes it."""
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
                body = await reader.readexactly(int(length or 0))
                writer.write(await self.answer(head, body))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def answer(self, head: bytes, body: bytes) -> bytes:
        """Return the response to a request, after the delay if it is a chat."""
        if head.startswith(b"GET /slots"):
            return _response([{"id": i, "is_processing": i < self.busy, "n_ctx": 1024} for i in range(self.slots)])
        if not head.startswith(b"POST"):
            return _response({"status": "ok", "total_slots": self.slots})
        self.busy += 1
        if self.delay:
            await asyncio.sleep(self.delay)
        self.busy -= 1
        if self.log:
            self.log.write(json.dumps(json.loads(body)["messages"][-1]["content"]) + "\n")
            self.log.flush()
        return self.reply


async def _main(options: argparse.Namespace) -> None:
    log = open(options.log, "a", encoding="utf-8") if options.log else None  # noqa: SIM115
    server = await asyncio.start_server(
        Server(options.slots, options.delay, log).serve, "127.0.0.1", options.port, backlog=256
    )
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


def main(arguments: Optional[List[str]] = None) -> None:
    parser = argparse.ArgumentParser(description="A server that answers every chat at once with the same text.")
    parser.add_argument("--port", type=int, default=0, help="port to listen on (any free port)")
    parser.add_argument("--slots", type=int, default=4, help="number of slots to report (%(default)s)")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before each response (%(default)s)")
    parser.add_argument("--log", metavar="FILE", help="append the prompts to this file")
    try:
        asyncio.run(_main(parser.parse_args(arguments)))
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
