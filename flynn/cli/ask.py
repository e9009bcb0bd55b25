"""`flynn ask`: one prompt, one answer; with --continue, in the conversation that the last one began."""

from __future__ import annotations

from functools import partial
from typing import Any, Dict, List, Optional, Tuple

from ..models.local.llamacpp import LlamaCppClient
from ..models.messages import AnyMessage
from ..models.types import ChatResponse, Message
from .answer import content_of, first_code_block, show, statistics, tracer
from .exits import DONE, FAILED, UsageError
from .history import keep_conversation, last_conversation
from .options import Given, Parser, connect, read_text, request_options
from .terminal import Terminal

EXAMPLES = """\
  flynn ask Why is the sky blue?
  flynn ask -c And at dusk?
  cat build.log | flynn ask --stats "What failed?"
  flynn ask -x "A shell command that counts the lines of all C files" > count.sh
  flynn ask --image photo.jpg "What is this?"
  flynn ask --json-schema person.json "Invent a person" | jq .name
  flynn ask --json --max-tokens 20 Hello | jq -r '.choices[0].message.content'
  flynn ask --tool weather.py:get_weather "Do I need a coat in Oslo?"

The reasoning of the model and the tools that it calls are shown dimmed, and only
on a terminal. A tool is a Python function with a docstring and annotations; what
it prints goes to standard error. The last prompt and its answer are kept for -c in
$XDG_STATE_HOME/flynn/last.json (or in ~/.local/state); FLYNN_HISTORY= keeps none."""


def add_options(parser: Parser) -> None:
    parser.usage = "flynn ask [options] [PROMPT ...]"
    text = "the prompt; piped input is added after an empty line; - reads it"
    parser.add_argument("words", nargs="*", metavar="PROMPT", help=text)
    parser.add_argument("-c", "--continue", dest="continued", action="store_true", help="go on with the last answer")
    parser.add_argument("--system", metavar="TEXT", help="system prompt")
    add_media_options(parser)
    parser.add_argument("--json-schema", metavar="FILE", help="JSON schema that the answer must match")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("-x", "--extract", action="store_true", help="print only the first code block, once complete")
    output.add_argument("--json", action="store_true", help="print the reply as one object, like the chat route")
    parser.add_argument("--stats", action="store_true", help="show tokens, tokens/s and time to the first token")
    parser.add_request_options()


def add_media_options(parser: Parser) -> None:
    """Add what a prompt may have beside its text: images, recordings, tools."""
    for name, metavar, text in (
        ("--image", "FILE|URL", "image to ask about"),
        ("--audio", "FILE|URL", "recording to ask about"),
        ("--tool", "MODULE:FUNCTION", "Python function that the model may call; or FILE.py:FUNCTION"),
    ):
        parser.add_argument(name, metavar=metavar, action="append", default=[], help=f"{text} (repeatable)")


def run(given: Given, terminal: Terminal) -> int:
    prompt = read_text(given.words).rstrip("\r\n")
    if not prompt.strip():
        raise UsageError("the prompt is empty")
    message = Message("user", content_of(prompt, given.image, given.audio))
    options = request_options(given)
    if terminal.err_is_terminal:
        options["return_progress"] = True
    with connect(given) as client:
        client.transport.trace = tracer(terminal)
        before: List[AnyMessage] = []
        messages: List[AnyMessage] = [message] if given.system is None else [Message("system", given.system), message]
        if given.continued:
            before, messages = _continue(client, message, options, given, terminal)
        response, first = _answer(client, messages, options, given, terminal)
        costs = statistics(response, first)
        if given.stats and before:
            from ..conversation.cache import why_read_anew

            costs = "\n".join(filter(None, [costs, why_read_anew(client, before, messages, response)]))
    problem = ""
    if given.json:
        terminal.write_json(_as_json(response))
    elif given.extract:
        code = first_code_block(response.content)
        terminal.write(code or "")
        problem = "the answer has no complete code block" if code is None else ""
    if given.stats:
        terminal.say(costs)
    if given.json_schema and response.finish_reason == "length":
        problem = problem or "the answer was cut at the token limit, so it is not complete JSON: raise --max-tokens"
    if problem:
        terminal.fail(problem)
    return FAILED if problem else DONE


def _continue(
    client: LlamaCppClient, message: Message, options: Dict[str, Any], given: Given, terminal: Terminal
) -> Tuple[List[AnyMessage], List[AnyMessage]]:
    """Return the messages of the last request, and those of the next one, shortened to fit the context."""
    from ..conversation import Conversation

    conversation = Conversation(client, **options)
    conversation.load(last_conversation())
    instructions = [] if conversation.system is None else [Message("system", conversation.system)]
    before = [*instructions, *conversation.messages[:-1]]
    if given.system is not None:
        conversation.system = given.system
    messages = conversation.fit([message])
    if gone := len(conversation.dropped):
        terminal.say(f"(the context is full: the oldest {gone} messages are forgotten)", dimmed=True)
    return before, messages


def _answer(
    client: LlamaCppClient, messages: List[AnyMessage], options: Dict[str, Any], given: Given, terminal: Terminal
) -> Tuple[ChatResponse, Optional[float]]:
    """Show the answer and keep the conversation, also after Ctrl-C. Returns the answer, and what `show` returns."""
    keep = partial(keep_conversation, terminal=terminal, continued=given.continued)
    text = not given.json and not given.extract
    if given.tool:
        from .functions import answer_with_tools

        return answer_with_tools(client, messages, given.tool, options, keep, terminal, text=text)
    stream = client.chat_stream(messages, **options)
    try:
        first = show(stream, terminal, text=text)
    finally:
        if stream.response.content:
            keep([*messages, stream.response.message])
    return stream.response, first


def _as_json(response: ChatResponse) -> Dict[str, Any]:
    """Return an answer in the form of the chat route without streaming."""
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
