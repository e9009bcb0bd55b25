"""`flynn chat`: a conversation, typed on a terminal or read line by line."""

from __future__ import annotations

import os
import sys
from typing import Any, Dict, List, Optional, Sequence

from ..conversation import Conversation, summarise
from ..errors import AuthenticationError, FlynnError, ServerError, suggestion
from ..models.local.llamacpp import LlamaCppClient
from ..models.messages import AnyMessage
from ..models.types import ChatResponse, Message
from ..trace import TraceEvent
from .answer import content_of, show, statistics, tracer
from .ask import add_media_options
from .exits import DONE, INTERRUPTED, UsageError, explain
from .line_editor import LineEditor
from .options import Given, Parser, connect, request_options
from .terminal import Terminal

EXAMPLES = """\
  flynn chat
  flynn chat --system "Answer in French." --temperature 0.2
  flynn chat --tool weather.py:get_weather
  printf '%s\\n' "Name a fruit." "And its colour?" | flynn chat

On a terminal, Ctrl-C stops an answer, a backslash at the end of a line continues
it on the next one, and /help lists the commands. Otherwise each line of standard
input is a prompt, and only the answers are printed. Images and recordings go with
the first prompt. The oldest messages are forgotten when the context is full. Lines
typed are kept in $XDG_STATE_HOME/flynn/history; FLYNN_HISTORY= keeps none."""

# Commands, each with its argument and what it does. `Chat` has a method for each.
COMMANDS = {
    "/help": ("", "show this"),
    "/reset": ("", "forget all messages, except the system prompt"),
    "/system": ("[TEXT]", "set the system prompt; without TEXT, show it; /system none removes it"),
    "/image": ("FILE", "send an image with the next prompt"),
    "/save": ("FILE", "write the conversation to a file"),
    "/load": ("FILE", "continue a conversation that was saved"),
    "/stats": ("", "show what the last answer cost"),
    "/quit": ("", "leave, like Ctrl-D"),
}
_ALIASES = {"/exit": "/quit", "/bye": "/quit", "exit": "/quit", "quit": "/quit", "/clear": "/reset", "/?": "/help"}
_NO_ANSWER = "none yet"


def add_options(parser: Parser) -> None:
    parser.add_argument("--system", metavar="TEXT", help="system prompt")
    add_media_options(parser)
    parser.add_argument("--summarise", action="store_true", help="summarise the oldest messages, instead of forgetting")
    parser.add_request_options()


def run(given: Given, terminal: Terminal) -> int:
    options = request_options(given)
    if terminal.err_is_terminal:
        options["return_progress"] = True
    with connect(given) as client:
        chat = Chat(client, terminal, Conversation(client, given.system, **options), given)
        client.transport.trace = chat.trace
        if sys.stdin is not None and sys.stdin.isatty() and terminal.out_is_terminal:
            chat.welcome(given.model)
            with LineEditor([*COMMANDS, *_ALIASES], coloured=terminal.has_colours) as lines:
                return chat.converse(lines)
        for line in sys.stdin or ():
            if line.strip():
                chat.answer(line.rstrip("\r\n"))
    return DONE


class Chat:
    """A conversation of a person, or of a program, with a model.

    Args:
        conversation: an empty one; its options are those of the requests.
        given: the options of the command line.
    """

    def __init__(self, client: LlamaCppClient, terminal: Terminal, conversation: Conversation, given: Given) -> None:
        self._client = client
        self._terminal = terminal
        self._conversation = conversation
        self._summarises: bool = given.summarise
        self._tools: List[str] = given.tool
        self._images: List[str] = given.image  # sent with the next prompt
        self._recordings: List[str] = given.audio
        conversation.rule = self._make_room
        self._statistics = _NO_ANSWER
        self._cache = ""  # why the last prompt was read again
        self._explain_cut = tracer(terminal)
        self._saved = ""  # the file that /save may overwrite without asking
        self._left = False

    def trace(self, event: TraceEvent) -> None:
        """Take an event of the client's `trace`."""
        if event.name == "cache":
            self._cache = f"\n{event.data['message']}"
        else:
            self._explain_cut(event)

    def welcome(self, model: Optional[str]) -> None:
        """Say which model answers, and wait for it while it loads."""
        if not self._client.health():
            self._terminal.say("The model is loading ...")
            self._client.wait_until_ready()
        try:
            model = model or self._client.props().model_alias.rpartition("/")[2]  # it may be the path of the file
        except AuthenticationError:
            raise
        except ServerError:
            pass  # a proxy that passes only the chat route
        name = f"{model or 'llama-server'} at {self._client.endpoint}"
        self._terminal.say(f"{name}. /help lists commands, Ctrl-D leaves.")

    def converse(self, lines: LineEditor) -> int:
        """Answer what is typed, until the person leaves. Returns the exit code."""
        interrupted = False
        while not self._left:
            reading = True
            try:
                line = lines.read()
                reading = interrupted = False
                self._take(line, lines)
            except EOFError:
                self._terminal.write("\n")
                return DONE
            except KeyboardInterrupt:
                if not reading:
                    self._terminal.say("(stopped)\n")
                    continue
                self._terminal.write("\n")
                if interrupted and not lines.typed():
                    return INTERRUPTED
                interrupted = True
                self._terminal.say("(Ctrl-C again or Ctrl-D to leave)")
            except FlynnError as error:
                self._terminal.fail(explain(error))
        return DONE

    def _take(self, line: str, lines: LineEditor) -> None:
        """Obey a command, or answer a prompt."""
        name, argument = [*line.split(None, 1), "", ""][:2]
        alias = _ALIASES.get(name, name)
        if line.startswith("/") or (alias != name and not argument):
            self._obey(alias, argument.strip(), lines)
        elif line.strip():
            self._remark_on(self.answer(line))
            self._terminal.say("")  # an empty line between turns

    def answer(self, prompt: str) -> ChatResponse:
        """Answer a prompt. An answer that is cut short for whatever reason stays in the conversation as it is."""
        content = content_of(prompt, self._images, self._recordings)
        self._cache = ""
        if self._tools:
            response = self._answer_with_tools(content)
        else:
            stream = self._conversation.chat_stream([Message("user", content)])
            first = None
            try:
                first = show(stream, self._terminal)
            finally:
                response = stream.response
                self._statistics = statistics(response, first)
        self._images, self._recordings = [], []
        return response

    def _answer_with_tools(self, content: Any) -> ChatResponse:
        from .functions import tool_run

        messages = self._conversation.fit([Message("user", content)])
        system = len(messages) - len(self._conversation.messages) - 1
        options: Dict[str, Any] = self._conversation.options
        with tool_run(self._client, messages, self._tools, options) as run:
            first = show(run, self._terminal)
        self._conversation.messages[:] = run.messages[system:]
        self._statistics = statistics(run.answer(), first)
        return run.answer()

    def _make_room(self, oldest: Conversation) -> Sequence[AnyMessage]:
        what = "summarised" if self._summarises else "forgotten"
        self._terminal.say(f"(the context is full: the oldest {len(oldest.messages)} messages are {what})", dimmed=True)
        return summarise(oldest) if self._summarises else ()

    def _remark_on(self, response: ChatResponse) -> None:
        if response.finish_reason == "length":
            self._terminal.say("(cut at the token limit)")
        elif not response.content:
            self._terminal.say("(an empty answer)")

    # --- commands -----------------------------------------------------------------------------------------------------

    def _obey(self, name: str, argument: str, lines: LineEditor) -> None:
        if name not in COMMANDS:
            near = suggestion(name, COMMANDS) or " (/help lists them; a space before the / makes it a prompt)"
            raise UsageError(f"unknown command {name!r}{near}")
        wanted = COMMANDS[name][0]
        if bool(argument) != bool(wanted) and not (wanted.startswith("[") and not argument):
            raise UsageError(f"{name} {f'needs a {wanted}' if wanted else 'takes nothing after it'}")
        if name == "/save" and not self._may_write(argument, lines):
            self._terminal.say("Not saved.")
            return
        getattr(self, f"_{name[1:]}")(argument)

    def _help(self, _: str) -> None:
        for name, (argument, purpose) in COMMANDS.items():
            self._terminal.say(f"{name + ' ' + argument:<15}{purpose}")
        self._terminal.say("Ctrl-C stops an answer. A backslash at the end of a line continues it on the next one.")
        self._terminal.say("/clear is /reset; /exit, /bye, exit and quit are /quit. Tab completes commands and files.")

    def _reset(self, _: str) -> None:
        self._conversation.messages.clear()
        self._conversation.dropped.clear()
        self._statistics = _NO_ANSWER
        self._terminal.say("The conversation starts again.")

    def _system(self, text: str) -> None:
        if text:
            self._conversation.system = None if text == "none" else text
        self._terminal.say(f"System prompt: {self._conversation.system or 'none'}")

    def _image(self, path: str) -> None:
        if not os.path.isfile(os.path.expanduser(path)):
            raise UsageError(f"{path}: not a file")
        self._images = [*self._images, os.path.expanduser(path)]
        self._terminal.say(f"{path} goes with the next prompt.")

    def _may_write(self, path: str, lines: LineEditor) -> bool:
        """Return whether /save may write a file: a new one, the one of this conversation, or after a yes."""
        place = os.path.realpath(os.path.expanduser(path))
        return place == self._saved or not os.path.isfile(place) or lines.confirms(f"{path} exists. Overwrite it?")

    def _save(self, path: str) -> None:
        self._conversation.save(path)
        self._saved = os.path.realpath(os.path.expanduser(path))
        self._terminal.say(f"Saved in {path}.")

    def _load(self, path: str) -> None:
        self._conversation.load(path)
        self._saved = os.path.realpath(os.path.expanduser(path))
        self._terminal.say(f"{len(self._conversation.messages)} messages loaded.")

    def _stats(self, _: str) -> None:
        count = len(self._conversation.messages)
        self._terminal.say(f"{count} messages; last answer: {self._statistics}{self._cache}")

    def _quit(self, _: str) -> None:
        self._left = True
