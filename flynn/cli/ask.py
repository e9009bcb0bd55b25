"""`flynn ask`: one prompt, one answer."""

from __future__ import annotations

import sys

from ..errors import ConfigError
from ..models.types import Image, Message
from . import DONE
from .answer import as_json, show, statistics
from .options import Given, Parser, connect, read_text, request_options
from .screen import Screen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional, Tuple

    from ..models.local.llamacpp import LlamaCppClient
    from ..models.types import ChatResponse

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


def run(given: Given, screen: Screen) -> int:
    prompt = read_text(given.words).rstrip("\r\n")
    if not prompt.strip():
        raise ConfigError("the prompt is empty")
    content: Any = [prompt, *map(Image, given.image)] if given.image else prompt
    messages = [] if given.system is None else [Message("system", given.system)]
    messages.append(Message("user", content))
    options = request_options(given)
    if screen.err_is_terminal:
        options["return_progress"] = True
    with connect(given) as client:
        if given.tool:
            response, first = _with_tools(client, messages, options, given, screen)
        else:
            stream = client.chat_stream(messages, **options)
            first = show(stream, screen, text=not given.json)
            response = stream.response
    if given.json:
        screen.write_json(as_json(response))
    if given.stats:
        screen.say(statistics(response, first))
    return DONE


def _with_tools(
    client: LlamaCppClient, messages: List[Message], options: Dict[str, Any], given: Given, screen: Screen
) -> Tuple[ChatResponse, Optional[float]]:
    from contextlib import redirect_stdout

    from .functions import load_tool

    with redirect_stdout(sys.stderr):  # what functions print is not the result; the screen keeps its own streams
        tools = [load_tool(name) for name in given.tool]
        try:
            run = client.run_tools(messages, tools, stream=True, **options)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"--tool: {error}") from None
        first = show(run, screen, text=not given.json)
        return run.answer(), first
