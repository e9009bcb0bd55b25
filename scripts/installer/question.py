"""Test the service through Flynn: wait until the model is loaded, then ask one question."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Callable, Optional

from flynn import FlynnError, LlamaCppClient

from .errors import EXIT_TEMPORARY, EXIT_UNAVAILABLE, InstallError

QUESTION = "In one sentence: what is a llama?"
ANSWER_TOKENS = 64
ANSWER_SECONDS = 300.0
CHECK_SECONDS = 2.0  # between two checks that the service is still alive


@dataclass(frozen=True)
class Answer:
    """The server's answer to the question.

    Attributes:
        text: the completion, the reasoning so far if `is_reasoning`, or a description of an embedding.
        is_reasoning: True if the tokens ran out before the model had finished reasoning.
        tokens_per_second: None if the server did not report it.
    """

    text: str
    is_reasoning: bool = False
    tokens_per_second: Optional[float] = None


def ask(
    endpoint: str,
    token: Optional[str],
    *,
    model: str = "",
    embeddings: bool = False,
    seconds: float,
    check_alive: Callable[[], None],
) -> Answer:
    """Wait until the model is loaded and ask it the question.

    Args:
        endpoint: the URL of the server.
        token: the API key; None for a server without a key.
        model: the model's name; empty for a server with a single model.
        embeddings: True for a server that embeds texts instead of chatting.
        seconds: the longest time for loading.
        check_alive: called about every two seconds; it raises InstallError if the service has failed.

    Raises:
        InstallError: the model was not loaded in time, or the server answered with an error.
    """
    deadline = time.monotonic() + seconds
    # A server of several models loads a model on its first request, so the answer may take that long, too.
    timeout = seconds if model else ANSWER_SECONDS
    with LlamaCppClient(endpoint, auth_token=token, timeout=timeout, model=model or None) as client:
        while not _is_ready(client):
            check_alive()
            if time.monotonic() > deadline:
                raise InstallError(
                    f"{endpoint}: the model was not loaded within {seconds:.0f} s", status=EXIT_TEMPORARY
                )
        try:
            return _embedding(client) if embeddings else _reply(client)
        except FlynnError as error:
            raise InstallError(f"{endpoint}: {error}", status=EXIT_UNAVAILABLE) from error


def _reply(client: LlamaCppClient) -> Answer:
    reply = client.chat(QUESTION, max_tokens=ANSWER_TOKENS)
    speed = reply.timings.predicted_per_second if reply.timings else None
    text, reasoning = reply.content.strip(), (reply.reasoning or "").strip()
    return Answer(text or reasoning, is_reasoning=not text and bool(reasoning), tokens_per_second=speed)


def _embedding(client: LlamaCppClient) -> Answer:
    return Answer(f"an embedding of {client.embed([QUESTION]).dimensions} numbers")


def _is_ready(client: LlamaCppClient) -> bool:
    """Return True if the server is ready within CHECK_SECONDS."""
    started = time.monotonic()
    try:
        client.wait_until_ready(timeout=CHECK_SECONDS)
        return True
    except FlynnError:
        time.sleep(max(0.0, started + CHECK_SECONDS / 4 - time.monotonic()))
        return False
