"""A stream that is cut after each of its bytes: nothing is lost, nothing comes twice."""

from __future__ import annotations

import json
from typing import Any, Dict, List, Tuple

from llama import STREAMS, LlamaServer, events_of
from scripted import LAST_CHUNK, STREAM_HEAD, chunk

from flynn import LlamaCppClient, StreamInterruptedError

from . import GUARD


def what_was_said(body: bytes) -> List[Tuple[str, str, List[List[str]]]]:
    """Of each choice its text, its reasoning and its tool calls, by no code of Flynn's."""
    choices: Dict[int, Tuple[List[str], List[str], Dict[int, List[str]]]] = {}
    for event in events_of(body):
        data = event[len(b"data: ") :].strip()
        for item in json.loads(data)["choices"] if data != b"[DONE]" else ():
            texts, thoughts, calls = choices.setdefault(item["index"], ([], [], {}))
            texts.append(item["delta"].get("content") or "")
            thoughts.append(item["delta"].get("reasoning_content") or "")
            for call in item["delta"].get("tool_calls", ()):
                made = calls.setdefault(call["index"], ["", "", ""])
                pieces = (call.get("id", ""), call["function"].get("name", ""), call["function"]["arguments"])
                made[:] = [so_far + piece for so_far, piece in zip(made, pieces)]
    return [
        ("".join(texts), "".join(thoughts), [calls[number] for number in sorted(calls)])
        for _, (texts, thoughts, calls) in sorted(choices.items())
    ] or [("", "", [])]


def said(response: Any) -> List[Tuple[str, str, List[List[str]]]]:
    """The same, out of a ChatResponse."""
    return [
        (
            choice.message.content,
            choice.message.reasoning or "",
            [[call.id, call.name, call.arguments] for call in choice.message.tool_calls],
        )
        for choice in response.choices
    ]


def on_the_wire(stream: str) -> List[int]:
    """How many bytes of a recorded stream's body are in the first 0, 1, 2, … bytes of the response that carries it."""
    lengths = [0] * len(STREAM_HEAD)
    so_far = 0
    for event in events_of(STREAMS[stream]):
        before = len(chunk(event)) - len(event) - len(b"\r\n")
        lengths += [so_far] * before
        lengths += range(so_far, so_far + len(event))
        so_far += len(event)
        lengths += [so_far] * len(b"\r\n")
    return lengths + [so_far] * (len(LAST_CHUNK) + 1)


def cut_everywhere(server: LlamaServer, stream: str, how: str, *, resume: bool, step: int = 1, first: int = 0) -> int:
    """Cut a recorded stream after every `step`-th byte of its response; how many cuts that were."""
    lengths = on_the_wire(stream)
    done = len(STREAMS[stream])
    offsets = range(first, len(lengths) - 1, step)
    with LlamaCppClient(server.endpoint, timeout=GUARD) as client:
        whole = list(client.chat_stream("Hi", extra={"script": {"stream": stream}}))
        assert said(whole[-1].response) == what_was_said(STREAMS[stream])
        for offset in offsets:
            script = {"stream": stream, "faults": [["cut", offset, how]]}
            came = client.chat_stream("Hi", resume=resume, extra={"script": script})
            events = []
            place = f"{stream} cut with {how} after {offset} bytes"
            try:
                for event in came:
                    events.append(event)
            except StreamInterruptedError as error:
                assert not resume, f"{place}: {error!r}"
                assert error.partial is not None
                assert came.resumes == 0
                assert events == whole[: len(events)], place
                assert len(events) < len(whole), place
                possible = [lengths[offset]] if how == "fin" else lengths[: offset + 1]  # a RST overtakes what was sent
                assert any(said(error.partial) == what_was_said(STREAMS[stream][:n]) for n in possible[::-1]), place
            else:
                assert events == whole, place
                # All of the stream may have come before the cut.
                assert came.resumes == (lengths[offset] < done) or (how == "rst" and came.resumes == 1), place
                assert resume or lengths[offset] == done, place
    return len(offsets)
