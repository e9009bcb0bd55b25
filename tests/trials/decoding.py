"""Random chat streams, decoded by Flynn and by a few lines around `json.loads`: both results must be equal."""

from __future__ import annotations

import io
import json
import random
from typing import Any, Dict, List, Tuple

from flynn import ProtocolError
from flynn.models.local.decode import ChatStreamDecoder
from flynn.models.local.sse import read_events

_TEXTS = (
    "Hi",
    " there",
    "",
    "é",
    "😀",
    "\ud83d",
    "\u2028",
    "\x85",
    "[DONE]",
    "data: x\n\n",
    '"\\',
    "\r",
    "\x00",
    "a" * 3000,
)
_NUMBERS = (0, 1, 7, 2**40)
_ENDS = (b"\n", b"\r\n")


def compare_streams(seed: object, count: int) -> Dict[str, int]:
    """Decode random streams in both ways. Returns the numbers of decoded and refused streams."""
    outcomes = {"decoded": 0, "refused": 0}
    for number in range(count):
        random_ = random.Random(f"{seed} {number}")
        chunks = [_chunk(random_) for _ in range(random_.randrange(1, 12))]
        is_wrong = random_.random() < 0.1
        if is_wrong:
            chunks[random_.randrange(len(chunks))] = _wrong_chunk(random_)
        try:
            decoded = _decode_with_flynn(_body(random_, chunks))
        except ProtocolError:
            assert is_wrong, f"seed {seed!r}, number {number}: refused"
            outcomes["refused"] += 1
            continue
        assert not is_wrong, f"seed {seed!r}, number {number}: not refused"
        expected = _decode_with_json([json.loads(json.dumps(chunk)) for chunk in chunks])
        assert decoded == expected, f"seed {seed!r}, number {number}:\n{decoded}\n{expected}"
        outcomes["decoded"] += 1
    return outcomes


# --- the streams ------------------------------------------------------------------------------------------------------


def _chunk(random_: random.Random) -> Dict[str, Any]:
    """Return a valid chunk; some fields are missing or null."""
    choice = random_.choice
    chunk: Dict[str, Any] = {}
    if random_.random() < 0.9:
        chunk["choices"] = [_choice(random_) for _ in range(random_.choice((0, 1, 1, 1, 2)))]
    optional = {
        "id": choice((None, "chatcmpl-1", 5)),  # a value of the wrong type is ignored
        "model": choice((None, "tiny", ["tiny"])),
        "usage": choice((None, {}, _usage(random_))),
        "timings": choice(
            (None, {"prompt_n": 1, "predicted_ms": 2.5, "cache_n": "many"}, {"predicted_n": choice(_NUMBERS)})
        ),
        "prompt_progress": {"total": choice(_NUMBERS), "cache": None, "processed": 1, "time_ms": 2},
        "error": None,
        "unknown field": [{}],
    }
    chunk.update((name, value) for name, value in optional.items() if random_.random() < 0.2)
    return chunk


def _choice(random_: random.Random) -> Dict[str, Any]:
    delta: Dict[str, Any] = {"role": "assistant"} if random_.random() < 0.1 else {}
    if random_.random() < 0.8:
        delta["content"] = random_.choice((None, *_TEXTS))
    if random_.random() < 0.2:
        delta["reasoning_content"] = random_.choice((None, *_TEXTS))
    if random_.random() < 0.2:
        delta["tool_calls"] = [_fragment(random_) for _ in range(random_.randrange(3))]
    choice: Dict[str, Any] = {"delta": random_.choice((delta, delta, delta, None))}
    if random_.random() < 0.8:
        choice["index"] = random_.choice((None, 0, 0, 1))
    if random_.random() < 0.3:
        choice["finish_reason"] = random_.choice((None, "stop", "length"))
    if random_.random() < 0.1:
        choice["logprobs"] = random_.choice((None, {"content": None}, {"content": [{"token": "H", "logprob": -0.5}]}))
    return choice


def _fragment(random_: random.Random) -> Dict[str, Any]:
    function = {"name": random_.choice((None, "f")), "arguments": random_.choice((None, *_TEXTS))}
    return {"index": random_.randrange(2), "id": random_.choice((None, "call")), "function": function}


def _usage(random_: random.Random) -> Dict[str, Any]:
    details = random_.choice((None, {}, {"cached_tokens": random_.choice(_NUMBERS)}))
    return {
        "prompt_tokens": random_.choice(_NUMBERS),
        "completion_tokens": random_.choice(_NUMBERS),
        "prompt_tokens_details": details,
    }


def _wrong_chunk(random_: random.Random) -> Any:
    """Return a chunk with a value of a wrong type."""
    delta = random_.choice(
        (
            {"content": 5},
            {"content": ["Hi"]},
            {"reasoning_content": {}},
            {"tool_calls": "f"},
            {"tool_calls": [None]},
            {"tool_calls": [{"index": "0"}]},
            {"tool_calls": [{"function": {"name": "f", "arguments": {}}}]},
            "Hi",
        )
    )
    chunks: Tuple[Any, ...] = (
        {"choices": [{"delta": delta}]},
        {"choices": [{"index": "0", "delta": {}}]},
        {"choices": [{"finish_reason": 5}]},
        {"choices": {"delta": {}}},
        {"choices": [[]]},
        {"usage": {"prompt_tokens": "5"}},
        {"timings": 5},
        [],
        None,
        "Hi",
    )
    return random_.choice(chunks)


def _body(random_: random.Random, chunks: List[Any]) -> bytes:
    """Return the body of a stream, with the freedom that WHATWG's sections 9.2.5 and 9.2.6 give a server."""
    end = random_.choice(_ENDS)
    body = random_.choice((b"", b"\xef\xbb\xbf"))
    for chunk in chunks:
        if random_.random() < 0.1:
            body += random_.choice((b": ping", b"event: message", b"id: 7", b"retry: 10", b"data2: no")) + end
        text = json.dumps(chunk, ensure_ascii=random_.random() < 0.5, indent=random_.choice((None, None, 1)))
        for line in text.split("\n"):
            body += random_.choice((b"data: ", b"data:")) + _utf_8(line) + end
        body += end * random_.choice((1, 1, 1, 2))
    return body + b"data: [DONE]" + end + end


def _utf_8(line: str) -> bytes:
    """Encode a line of JSON. A lone surrogate, which UTF-8 cannot encode, becomes an escape sequence of JSON."""
    return "".join(c if not "\ud800" <= c <= "\udfff" else f"\\u{ord(c):04x}" for c in line).encode()


# --- the two decoders -------------------------------------------------------------------------------------------------


def _decode_with_flynn(body: bytes) -> Dict[str, Any]:
    decoder = ChatStreamDecoder()
    texts: Dict[int, str] = {}
    for data in read_events(io.BytesIO(body)):
        for event in decoder.feed(data):
            if event.type == "content":
                texts[event.choice] = texts.get(event.choice, "") + event.text
    assert decoder.done
    response = decoder.response()
    usage, timings = response.usage, response.timings
    streamed = "".join(text for _, text in sorted(texts.items()))
    assert streamed == "".join(choice.message.content for choice in response.choices)
    return {
        "content": [choice.message.content for choice in response.choices],
        "reasoning": [choice.message.reasoning for choice in response.choices],
        "calls": [[(c.id, c.name, c.arguments) for c in choice.message.tool_calls] for choice in response.choices],
        "logprobs": [list(choice.logprobs) for choice in response.choices],
        "finish_reason": [choice.finish_reason for choice in response.choices],
        "usage": usage and (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens),
        "timings": timings and (timings.prompt_n, timings.predicted_n, timings.predicted_ms, timings.cache_n),
        "id": response.id,
        "model": response.model,
    }


def _decode_with_json(chunks: List[Dict[str, Any]]) -> Dict[str, Any]:
    items = [item for chunk in chunks for item in chunk.get("choices", ())]
    by_choice = {
        index: [item for item in items if (item.get("index") or 0) == index]
        for index in sorted({item.get("index") or 0 for item in items} or {0})
    }
    usages = [chunk["usage"] for chunk in chunks if chunk.get("usage")]
    cached = [(usage["prompt_tokens_details"] or {}).get("cached_tokens", 0) for usage in usages]
    timings = [chunk["timings"] for chunk in chunks if chunk.get("timings")]
    names = ("prompt_n", "predicted_n", "predicted_ms", "cache_n")
    numbers = [{name: value for name, value in timing.items() if not isinstance(value, str)} for timing in timings]
    last = chunks[-1]
    return {
        "content": [_joined(items, "content") for items in by_choice.values()],
        "reasoning": [_joined(items, "reasoning_content") or None for items in by_choice.values()],
        "calls": [_calls(items) for items in by_choice.values()],
        "logprobs": [
            [p for i in items for p in (i.get("logprobs") or {}).get("content") or ()] for items in by_choice.values()
        ],
        "finish_reason": [
            next((i["finish_reason"] for i in reversed(items) if i.get("finish_reason")), None)
            for items in by_choice.values()
        ],
        "usage": (usages[-1]["prompt_tokens"], sum(u["completion_tokens"] for u in usages), cached[0])
        if usages
        else None,
        "timings": tuple(numbers[-1].get(name, 0) for name in names) if numbers else None,
        "id": last["id"] if isinstance(last.get("id"), str) else "",
        "model": last["model"] if isinstance(last.get("model"), str) else "",
    }


def _joined(items: List[Dict[str, Any]], key: str) -> str:
    return "".join((item["delta"] or {}).get(key) or "" for item in items)


def _calls(items: List[Dict[str, Any]]) -> List[Tuple[str, str, str]]:
    fragments = [fragment for item in items for fragment in (item["delta"] or {}).get("tool_calls") or ()]
    calls = []
    for number in sorted({fragment["index"] for fragment in fragments}):
        own = [fragment for fragment in fragments if fragment["index"] == number]
        functions = [fragment["function"] for fragment in own]
        calls.append(
            (
                "".join(fragment["id"] or "" for fragment in own),
                "".join(function["name"] or "" for function in functions),
                "".join(function["arguments"] or "" for function in functions),
            )
        )
    return calls
