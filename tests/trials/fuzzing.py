"""Mutated responses: each must be read, or refused with a documented error."""

from __future__ import annotations

import random
from typing import Any, Callable, Dict, List

import mutations
from llama import LlamaServer

from flynn import FlynnError, LlamaCppClient, RequestTimeoutError, ServerError
from flynn.models.local import models, retrieval, server, text, tokens
from flynn.models.local.decode import ChatStreamDecoder, decode_chat, decode_error, decode_json
from flynn.models.local.sse import read_events

from . import GUARD


def _expect_types(response: Any) -> None:
    """Check that the fields of a response have their annotated types, whatever the server sent."""
    for choice in response.choices:
        assert isinstance(choice.message.content, str)
        assert isinstance(choice.message.reasoning, (str, type(None)))
        assert isinstance(choice.finish_reason, (str, type(None)))
        for call in choice.message.tool_calls:
            assert isinstance(call.id + call.name + call.arguments, str)
    assert isinstance(response.id + response.model, str)
    if response.usage:
        assert isinstance(response.usage.total_tokens + response.usage.cached_tokens, int)
    repr(response)


def fuzz_decoders(seed: object, count: int) -> Dict[str, int]:
    """Decode mutated streams and replies. Returns the numbers of those that were read and refused."""
    outcomes = {"read": 0, "refused": 0}
    for number in range(count):
        random_ = random.Random(f"{seed} {number}")
        try:
            if number % 2:
                _decode_stream(mutations.of_stream(random_, random_.choice(mutations.STREAMS)))
            else:
                _decode_reply(mutations.of_reply(random_))
            outcomes["read"] += 1
        except FlynnError as error:
            assert len(str(error)) < 6000  # the message may quote the server
            outcomes["refused"] += 1
        except Exception as error:
            raise AssertionError(f"seed {seed!r}, number {number}: {error!r}") from error
    return outcomes


def _decode_stream(body: bytes) -> None:
    decoder = ChatStreamDecoder(progress=True)
    try:
        for data in read_events(body.splitlines(keepends=True)):
            for event in decoder.feed(data) if data else ():
                repr(event)
    finally:
        _expect_types(decoder.response())


def _decode_reply(data: bytes) -> None:
    decode_error(None, data)
    _expect_types_of_error(decode_error(400, data))
    value = decode_json(data)
    refusals: List[FlynnError] = []
    for decode in _DECODERS:
        try:
            repr(decode(value))
        except FlynnError as error:
            refusals.append(error)
    try:
        repr(text.decode_completions(data))
    except FlynnError as error:
        refusals.append(error)
    try:
        repr(server.decode_metrics(data))
    except FlynnError as error:
        assert str(error).startswith("expected a metric")
    try:
        _expect_types(decode_chat(data))
    except FlynnError as error:
        if len(refusals) > len(_DECODERS):  # no decoder reads it
            raise error


def _expect_types_of_error(error: ServerError) -> None:
    assert isinstance(str(error) + error.body, str)
    assert isinstance(error.type, (str, type(None)))
    assert error.status == 400


_DECODERS: List[Callable[[Any], object]] = [
    value
    for module in (models, server, text, tokens, retrieval)
    for name, value in sorted(vars(module).items())
    if name.startswith("decode_")
    and name not in ("decode_metrics", "decode_ranking", "decode_completions")
    and value.__module__ == module.__name__
]
_DECODERS.append(lambda value: retrieval.decode_ranking(value, ["one", "two"]))


def fuzz_client(server: LlamaServer, seed: object, count: int) -> Dict[str, int]:
    """Send mutated responses to a client, and sometimes a good one, which it must read. Returns the same numbers."""
    outcomes = {"read": 0, "refused": 0}
    with LlamaCppClient(server.endpoint, timeout=GUARD) as client:
        for number in range(count):
            extra = {"script": {"mutated": [str(seed), number]}}
            try:
                if number % 2:
                    _expect_types(client.chat("Hi", extra=extra))
                else:
                    for event in client.chat_stream("Hi", extra=extra):
                        repr(event)
                outcomes["read"] += 1
            except RequestTimeoutError as error:
                raise AssertionError(f"seed {seed!r}, number {number}: a hang") from error
            except FlynnError:
                outcomes["refused"] += 1
            except Exception as error:
                raise AssertionError(f"seed {seed!r}, number {number}: {error!r}") from error
            if number % 5 == 0:
                assert client.chat(f"Number {number}").content == f"Number {number}", f"seed {seed!r}, number {number}"
    return outcomes
