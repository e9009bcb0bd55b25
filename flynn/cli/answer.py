"""How any answer is shown: while it is generated, what happens to its connection, and what it cost."""

from __future__ import annotations

import re
import time
from typing import Any, ContextManager, Iterable, Optional, Sequence

from ..models.types import Audio, ChatResponse, Image
from ..trace import TraceEvent, Tracer
from .terminal import Terminal

_LONG_PROMPT = 100  # tokens; a shorter prompt is read before anyone wonders
_SHORT_CUT = 0.5  # seconds; a stream that is resumed earlier is not worth a line
# A fenced code block (CommonMark section 4.5); an indented one is part of a list.
_CODE = re.compile(r"^([ \t]*)(`{3,}|~{3,})[^`\n]*\n(.*?)^[ \t]*\2[`~]*[ \t]*$", re.MULTILINE | re.DOTALL)


def content_of(prompt: str, images: Sequence[str], recordings: Sequence[str]) -> Any:
    """Return the content of a message with these images and recordings, given as files or URLs."""
    parts = [prompt, *map(Image, images), *map(Audio, recordings)]
    return parts if len(parts) > 1 else prompt


def show(stream: ContextManager[Iterable[Any]], terminal: Terminal, *, text: bool = True) -> Optional[float]:
    """Print an answer while it is generated, and the calls of tools before it. Closes the stream in any case.

    Args:
        stream: yields the events of `chat_stream` or `run_tools`.
        text: whether to print what the model writes, and its reasoning.

    Returns:
        Seconds until the first piece arrived, None if none did.
    """
    began = time.monotonic()
    first: Optional[float] = None
    with terminal.answering(), stream as events:
        for event in events:
            if event.type == "progress":
                to_read = event.total - event.cached
                if to_read > _LONG_PROMPT:
                    read = (event.processed - event.cached) * 100 // to_read
                    terminal.progress(f"reading {event.total} tokens: {read} %")
                continue
            if first is None and event.type != "done":
                first = time.monotonic() - began
            terminal.clear_progress()
            if event.type == "tool_result":
                terminal.note(f"-> {event.content}")
            elif event.type == "done" and event.response.tool_calls:
                terminal.end_line()
                for call in event.response.tool_calls:
                    terminal.note(f"{call.name} {call.arguments}")
            elif event.type == "content" and event.choice == 0 and text:
                terminal.write(event.text, prose=True)
            elif event.type == "reasoning" and event.choice == 0 and text:
                terminal.aside(event.text)
        terminal.end_line()
    return first


def tracer(terminal: Terminal) -> Tracer:
    """Return a `trace` callback that says in one line why nothing of an answer arrives."""
    cut: Optional[TraceEvent] = None

    def trace(event: TraceEvent) -> None:
        nonlocal cut
        if event.name == "loading":
            terminal.progress("the model is loading ...")
        elif event.name == "cut":
            cut = event if event.data["resume_for"] else None
        elif event.name == "resume":
            cut = None
        elif event.name == "request" and cut and cut.call == event.call and event.seconds > cut.seconds + _SHORT_CUT:
            left = cut.data["resume_for"] + cut.seconds - event.seconds
            until = time.strftime("%H:%M:%S", time.localtime(time.time() + left))
            terminal.fail(f"{cut.data['error']}; trying to go on until {until}, Ctrl-C ends it")
            cut = None

    return trace


def statistics(response: ChatResponse, first: Optional[float]) -> str:
    """Return in one line what an answer cost, as far as the server reports it; `first` is what `show` returned."""
    parts = []
    if usage := response.usage:
        parts += [f"prompt {usage.prompt_tokens} tokens ({usage.cached_tokens} cached)"]
        parts += [f"answer {usage.completion_tokens} tokens"]
    if response.timings:
        parts.append(f"{response.timings.predicted_per_second:.1f} tokens/s")
    if first is not None:
        parts.append(f"first token after {first:.2f} s")
    if response.finish_reason == "length":
        parts.append("cut at the token limit")
    return ", ".join(parts) or "no statistics"


def first_code_block(text: str) -> Optional[str]:
    """Return the first complete code block in a text, without its fences; None without one.

    Example:
        >>> first_code_block("Run this:\\n```sh\\nls\\n```\\nThen ...")
        'ls\\n'
    """
    match = _CODE.search(text)
    if match is None:
        return None
    indent, _, code = match.groups()
    return re.sub(f"^[ \\t]{{0,{len(indent)}}}", "", code, flags=re.MULTILINE)
