"""Cut a stream after each of its bytes: no event may be lost or repeated."""

from __future__ import annotations

import json
from typing import Any, Dict, List, Tuple

from llama import STREAMS, LlamaServer, events_of
from scripted import LAST_CHUNK, STREAM_HEAD, chunk

from flynn import LlamaCppClient, StreamInterruptedError

from . import GUARD


def expected_choices(body: bytes) -> List[Tuple[str, str, List[List[str]]]]:
    """Decode a stream without Flynn. Returns the text, reasoning and tool calls of each choice."""
    choices: Dict[int, Tuple[List[str], List[str], Dict[int, List[str]]]] = {}
    for event in events_of(body):
        data = event[len(b"data: ") :].strip()
        for item in json.loads(data)["choices"] if data != b"[DONE]" else ():
            texts, thoughts, calls = choices.setdefault(item["index"], ([], [], {}))
            texts.append(item["delta"].get("content") or "")
            thoughts.append(item["delta"].get("reasoning_content") or "")
            for call in item["delta"].get("tool_calls", ()):
                fields = calls.setdefault(call["index"], ["", "", ""])
                pieces = (call.get("id", ""), call["function"].get("name", ""), call["function"]["arguments"])
                fields[:] = [text + piece for text, piece in zip(fields, pieces)]
    return [
        ("".join(texts), "".join(thoughts), [calls[number] for number in sorted(calls)])
        for _, (texts, thoughts, calls) in sorted(choices.items())
    ] or [("", "", [])]


def choices_of(response: Any) -> List[Tuple[str, str, List[List[str]]]]:
    """Return the text, reasoning and tool calls of each choice of a ChatResponse."""
    return [
        (
            choice.message.content,
            choice.message.reasoning or "",
            [[call.id, call.name, call.arguments] for call in choice.message.tool_calls],
        )
        for choice in response.choices
    ]


def body_lengths(stream: str) -> List[int]:
    """Return, for the first 0, 1, 2, … bytes of the response, the number of bytes of the stream's body in them."""
    lengths = [0] * len(STREAM_HEAD)
    length = 0
    for event in events_of(STREAMS[stream]):
        before = len(chunk(event)) - len(event) - len(b"\r\n")
        lengths += [length] * before
        lengths += range(length, length + len(event))
        length += len(event)
        lengths += [length] * len(b"\r\n")
    return lengths + [length] * (len(LAST_CHUNK) + 1)


def cut_everywhere(server: LlamaServer, name: str, packet: str, *, resume: bool, step: int = 1, first: int = 0) -> int:
    """Cut a recorded stream after every `step`-th byte of its response. Returns the number of cuts.

    Args:
        name: the name of the stream in STREAMS.
        packet: "fin" or "rst".
        first: the byte of the first cut.
    """
    lengths = body_lengths(name)
    recorded = STREAMS[name]
    offsets = range(first, len(lengths) - 1, step)
    with LlamaCppClient(server.endpoint, timeout=GUARD) as client:
        whole = list(client.chat_stream("Hi", extra={"script": {"stream": name}}))
        assert choices_of(whole[-1].response) == expected_choices(recorded)
        for offset in offsets:
            script = {"stream": name, "faults": [["cut", offset, packet]]}
            stream = client.chat_stream("Hi", resume=resume, extra={"script": script})
            events = []
            place = f"{name} cut with {packet} after {offset} bytes"
            try:
                for event in stream:
                    events.append(event)
            except StreamInterruptedError as error:
                assert not resume, f"{place}: {error!r}"
                assert error.partial is not None
                assert stream.resumes == 0
                assert events == whole[: len(events)], place
                assert len(events) < len(whole), place
                possible = [lengths[offset]] if packet == "fin" else lengths[: offset + 1]  # a RST discards sent bytes
                assert any(choices_of(error.partial) == expected_choices(recorded[:n]) for n in possible[::-1]), place
            else:
                assert events == whole, place
                # The whole stream may have arrived before the cut.
                is_complete = lengths[offset] == len(recorded)
                assert stream.resumes == (not is_complete) or (packet == "rst" and stream.resumes == 1), place
                assert resume or is_complete, place
    return len(offsets)
