"""The proof that it works: waits until the server has loaded its model, and asks it one question, through Flynn."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Callable, Optional

from .errors import EXIT_TEMPORARY, EXIT_UNAVAILABLE, InstallError

if TYPE_CHECKING:
    from flynn import LlamaCppClient

QUESTION = "In one sentence: what is a llama?"
ANSWER_TOKENS = 64
ANSWER_SECONDS = 300.0
LOOK_SECONDS = 2.0  # between two looks at whether the service is still alive


@dataclass(frozen=True)
class Answer:
    """What came of the question.

    `text` is what the model said or, where `thinking`, only thought so far; of a server for embeddings, what it sent.
    `tokens_per_second` is None if the server did not tell.
    """

    text: str
    thinking: bool = False
    tokens_per_second: Optional[float] = None


def ask(
    endpoint: str,
    token: Optional[str],
    *,
    model: str = "",
    embeddings: bool = False,
    seconds: float,
    still_alive: Callable[[], None],
) -> Answer:
    """Waits until the model is loaded and asks it.

    Args:
        model: which of the server's models; empty for its only one.
        embeddings: whether it embeds texts and does not chat.
        seconds: how long loading may take.
        still_alive: called every two seconds; it raises when waiting on is pointless.

    Raises:
        InstallError: not ready in time, or the answer was an error.
    """
    from flynn import FlynnError, LlamaCppClient

    deadline = time.monotonic() + seconds
    # A server of several models loads the one that is asked, so that its answer may take as long as that.
    timeout = seconds if model else ANSWER_SECONDS
    with LlamaCppClient(endpoint, auth_token=token, timeout=timeout, model=model or None) as client:
        while not _is_ready(client, LOOK_SECONDS):
            still_alive()
            if time.monotonic() > deadline:
                raise InstallError(f"the model was not loaded after {seconds:.0f} s", status=EXIT_TEMPORARY)
        try:
            return _embedding(client) if embeddings else _reply(client)
        except FlynnError as error:
            raise InstallError(f"{endpoint}: {error}", status=EXIT_UNAVAILABLE) from error


def _reply(client: LlamaCppClient) -> Answer:
    reply = client.chat(QUESTION, max_tokens=ANSWER_TOKENS)
    speed = reply.timings.predicted_per_second if reply.timings else None
    text, thought = reply.content.strip(), (reply.reasoning or "").strip()
    return Answer(text or thought, thinking=not text and bool(thought), tokens_per_second=speed)


def _embedding(client: LlamaCppClient) -> Answer:
    return Answer(f"an embedding of {client.embed([QUESTION]).dimensions} numbers")


def _is_ready(client: LlamaCppClient, seconds: float) -> bool:
    """Whether the server is ready, or becomes so within so many seconds."""
    from flynn import FlynnError

    started = time.monotonic()
    try:
        client.wait_until_ready(timeout=seconds)
        return True
    except FlynnError:
        time.sleep(max(0.0, started + LOOK_SECONDS / 4 - time.monotonic()))
        return False
