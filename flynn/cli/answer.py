"""An answer on its way to the screen, and afterwards as statistics or as JSON."""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Optional, Union

    from ..conversation.stream import ConversationStream
    from ..models.local.stream import ChatStream
    from ..models.types import ChatResponse
    from ..tools.run import ToolRun
    from .screen import Screen

# A prompt with fewer tokens to read is read before anyone wonders.
_LONG_PROMPT = 100


def show(
    stream: Union[ChatStream, ConversationStream, ToolRun], screen: Screen, *, text: bool = True
) -> Optional[float]:
    """Print an answer as it comes, and the calls of tools on the way to it, closing the stream whatever happens.

    Args:
        text: whether to print what the model writes and thinks.

    Returns:
        Seconds until the first piece came, None if none did.
    """
    began = time.monotonic()
    first: Optional[float] = None
    with stream:
        for event in stream:
            if event.type == "progress":
                to_read = event.total - event.cached
                if to_read > _LONG_PROMPT:
                    read = (event.processed - event.cached) * 100 // to_read
                    screen.progress(f"reading {event.total} tokens: {read} %")
                continue
            if first is None and event.type != "done":
                first = time.monotonic() - began
            screen.clear_progress()
            if event.type == "tool_result":
                screen.note(f"-> {event.content}")
            if event.type == "done" and event.response.tool_calls:
                screen.end_line()
                for call in event.response.tool_calls:
                    screen.note(f"{call.name} {call.arguments}")
            if text and event.choice == 0:
                if event.type == "content":
                    screen.write(event.text)
                elif event.type == "reasoning":
                    screen.aside(event.text)
    screen.end_line()
    return first


def statistics(response: ChatResponse, first: Optional[float]) -> str:
    """What an answer cost, in one line, as far as the server told; `first` is what `show` returned."""
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


def as_json(response: ChatResponse) -> Dict[str, Any]:
    """An answer in the form in which the chat route itself replies when it does not stream."""
    from dataclasses import asdict

    from ..models.local.encode import encode_message

    choices = []
    for index, choice in enumerate(response.choices):
        item = {"index": index, "message": encode_message(choice.message), "finish_reason": choice.finish_reason}
        if choice.logprobs:
            item["logprobs"] = {"content": choice.logprobs}
        choices.append(item)
    reply: Dict[str, Any] = {"id": response.id, "model": response.model, "choices": choices}
    if usage := response.usage:
        reply["usage"] = {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.total_tokens,
            "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        }
    if response.timings:
        reply["timings"] = asdict(response.timings)
    return reply
