"""The floor for whole programs: the shortest correct script on http.client, which reads line by line."""

import http.client
import json

from . import MESSAGES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator

RECONNECT = True


def connect(url: str) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(url.partition("//")[2])


def request(connection: http.client.HTTPConnection, **fields: object) -> http.client.HTTPResponse:
    body = json.dumps({"messages": MESSAGES, **fields})
    connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
    return connection.getresponse()


def texts(connection: http.client.HTTPConnection, tokens: int) -> "Iterator[str]":
    with request(connection, max_tokens=tokens, stream=True) as response:
        for line in response:
            if line.startswith(b"data: {"):
                choices = json.loads(line[6:])["choices"]
                if choices:
                    text = choices[0]["delta"].get("content")
                    if text:
                        yield text


def ask(connection: http.client.HTTPConnection) -> str:
    text: str = json.loads(request(connection, max_tokens=64).read())["choices"][0]["message"]["content"]
    return text
