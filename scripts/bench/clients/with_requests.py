"""requests with its `iter_lines`; the program parses the JSON of each event."""

import json
from typing import Iterator, Tuple

import requests

from . import MESSAGES

Client = Tuple[requests.Session, str]


def connect(url: str) -> Client:
    return requests.Session(), f"{url}/v1/chat/completions"


def texts(client: Client, tokens: int) -> Iterator[str]:
    session, url = client
    body = {"messages": MESSAGES, "max_tokens": tokens, "stream": True}
    with session.post(url, json=body, stream=True) as response:
        for line in response.iter_lines():
            if line.startswith(b"data: {"):
                choices = json.loads(line[6:])["choices"]
                if choices and choices[0]["delta"].get("content"):
                    yield choices[0]["delta"]["content"]


def ask(client: Client) -> str:
    session, url = client
    reply = session.post(url, json={"messages": MESSAGES, "max_tokens": 64}).json()
    return str(reply["choices"][0]["message"]["content"])
