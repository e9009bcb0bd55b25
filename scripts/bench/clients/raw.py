"""The floor for CPU time: a raw socket, and json.loads for each event. No checks, no error handling."""

import json
import socket

from . import MESSAGES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator

RECONNECT = True


def connect(url: str) -> socket.socket:
    host, _, port = url.partition("//")[2].partition(":")
    connection = socket.create_connection((host, int(port)))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def request(connection: socket.socket, **fields: object) -> None:
    body = json.dumps({"messages": MESSAGES, **fields}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    connection.sendall(b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body))


def texts(connection: socket.socket, tokens: int) -> "Iterator[str]":
    request(connection, max_tokens=tokens, stream=True)
    rest = end = b""
    while end != b"\r\n0\r\n\r\n":
        block = connection.recv(65536)
        if not block:
            raise ConnectionError("the stream was cut")
        end = (end + block)[-7:]
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            if line.startswith(b"data: {"):
                choices = json.loads(line[6:])["choices"]
                if choices:
                    text = choices[0]["delta"].get("content")
                    if text:
                        yield text


def ask(connection: socket.socket) -> str:
    request(connection, max_tokens=64)
    response = b""
    while b"\r\n\r\n" not in response:
        response += connection.recv(65536)
    head, _, body = response.partition(b"\r\n\r\n")
    length = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(65536)
    text: str = json.loads(body)["choices"][0]["message"]["content"]
    return text
