"""`flynn ask`: one prompt, one answer; and how any answer is shown, as it comes and afterwards."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Tuple, Union

from ..models.local.llamacpp import LlamaCppClient
from ..models.local.stream import ChatStream
from ..models.types import ChatResponse, Image, Message
from .exits import DONE, UsageError
from .options import Given, Parser, connect, read_text, request_options
from .terminal import Terminal

if TYPE_CHECKING:  # what one prompt does not need
    from ..conversation.stream import ConversationStream
    from ..tools.run import ToolRun

EXAMPLES = """\
  flynn ask Why is the sky blue?
  cat build.log | flynn ask --stats "What failed?"
  flynn ask --image photo.jpg "What is this?"
  flynn ask --json-schema person.json "Invent a person" | jq .name
  flynn ask --json --max-tokens 20 Hello | jq -r '.choices[0].message.content'
  flynn ask --tool weather.py:get_weather "Do I need a coat in Oslo?"

What the model thinks before it answers, and the tools that it calls, are shown
dimmed, and only on a terminal. A tool is a Python function with a docstring and
annotations; what it prints goes to standard error."""

# A prompt with fewer tokens to read is read before anyone wonders.
_LONG_PROMPT = 100


def add_options(parser: Parser) -> None:
    parser.usage = "flynn ask [options] [PROMPT ...]"
    parser.add_argument(
        "words", nargs="*", metavar="PROMPT", help="what to ask; what is piped in is added after a blank line"
    )
    parser.add_argument("--system", metavar="TEXT", help="system prompt")
    parser.add_argument(
        "--image", metavar="FILE|URL", action="append", default=[], help="image to ask about (repeatable)"
    )
    parser.add_argument("--json-schema", metavar="FILE", help="JSON schema that the answer keeps to")
    parser.add_argument(
        "--tool",
        metavar="MODULE:FUNCTION",
        action="append",
        default=[],
        help="Python function that the model may call; or FILE.py:FUNCTION (repeatable)",
    )
    parser.add_argument("--json", action="store_true", help="print the reply as one object, as the chat route makes it")
    parser.add_argument("--stats", action="store_true", help="tell tokens, tokens/s and time to the first token")
    parser.add_request_options()


def run(given: Given, terminal: Terminal) -> int:
    prompt = read_text(given.words).rstrip("\r\n")
    if not prompt.strip():
        raise UsageError("the prompt is empty")
    content: Any = [prompt, *map(Image, given.image)] if given.image else prompt
    messages = [] if given.system is None else [Message("system", given.system)]
    messages.append(Message("user", content))
    options = request_options(given)
    if terminal.err_is_terminal:
        options["return_progress"] = True
    with connect(given) as client:
        if given.tool:
            response, first = _with_tools(client, messages, options, given, terminal)
        else:
            stream = client.chat_stream(messages, **options)
            first = show(stream, terminal, text=not given.json)
            response = stream.response
    if given.json:
        terminal.write_json(_as_json(response))
    if given.stats:
        terminal.say(statistics(response, first))
    return DONE


def _with_tools(
    client: LlamaCppClient, messages: List[Message], options: Dict[str, Any], given: Given, terminal: Terminal
) -> Tuple[ChatResponse, Optional[float]]:
    from contextlib import redirect_stdout

    from .functions import load_tool

    with redirect_stdout(sys.stderr):  # what functions print is not the result; the terminal keeps its own streams
        tools = [load_tool(name) for name in given.tool]
        try:
            run = client.run_tools(messages, tools, stream=True, **options)
        except (TypeError, ValueError) as error:
            raise UsageError(f"--tool: {error}") from None
        first = show(run, terminal, text=not given.json)
        return run.answer(), first


# --- any answer -------------------------------------------------------------------------------------------------------


def show(
    stream: Union[ChatStream, ConversationStream, ToolRun], terminal: Terminal, *, text: bool = True
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
                    terminal.progress(f"reading {event.total} tokens: {read} %")
                continue
            if first is None and event.type != "done":
                first = time.monotonic() - began
            terminal.clear_progress()
            if event.type == "tool_result":
                terminal.note(f"-> {event.content}")
            if event.type == "done" and event.response.tool_calls:
                terminal.end_line()
                for call in event.response.tool_calls:
                    terminal.note(f"{call.name} {call.arguments}")
            if text and event.choice == 0:
                if event.type == "content":
                    terminal.write(event.text)
                elif event.type == "reasoning":
                    terminal.aside(event.text)
    terminal.end_line()
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


def _as_json(response: ChatResponse) -> Dict[str, Any]:
    """An answer in the form in which the chat route itself replies when it does not stream."""
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
        reply["timings"] = vars(response.timings)
    return reply
