"""`flynn chat`: a conversation, typed on a terminal or read line by line."""

from __future__ import annotations

import os
import sys
from typing import Any, Dict, List, Optional, Sequence, Tuple

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
        if sys.stdin is not None and sys.stdin.isatty() and terminal.out_is_terminal:
            return chat.converse()
        for line in sys.stdin or ():
            if line.strip():
                chat.answer(line.rstrip("\r\n"))
    return DONE


class Chat:
    """A conversation of a person, or of a program, with a model. The options of `conversation` are for each request."""

    def __init__(self, client: LlamaCppClient, terminal: Terminal, conversation: Conversation, given: Given) -> None:
        self._client, self._terminal, self._conversation, self._given = client, terminal, conversation, given
        self._images: List[str] = given.image  # sent with the next prompt, like the recordings
        self._recordings: List[str] = given.audio
        self._statistics = "none yet"
        self._cache = ""  # why the last prompt was read again
        self._explain_cut = tracer(terminal)
        self._saved = ""  # the file that /save may overwrite without asking
        self._left = False
        conversation.rule = self._make_room
        client.transport.trace = self._trace

    def _trace(self, event: TraceEvent) -> None:
        if event.name == "cache":
            self._cache = f"\n{event.data['message']}"
        else:
            self._explain_cut(event)

    def _make_room(self, oldest: Conversation) -> Sequence[AnyMessage]:
        self._terminal.progress("the context is full ...")
        return summarise(oldest) if self._given.summarise else ()

    def answer(self, prompt: str) -> ChatResponse:
        """Answer a prompt. An answer that is cut short for whatever reason stays in the conversation as it is."""
        messages: List[AnyMessage] = [Message("user", content_of(prompt, self._images, self._recordings))]
        self._statistics, self._cache = "no statistics", ""
        before = len(self._conversation.dropped)
        try:
            if self._given.tool:
                response, first = self._answer_with_tools(messages)
            else:
                stream = self._conversation.chat_stream(messages)
                first = show(stream, self._terminal)
                response = stream.response
        finally:
            if gone := len(self._conversation.dropped) - before:
                fate = "summarised" if self._given.summarise else "forgotten"
                self._terminal.say(f"(the context is full: the oldest {gone} messages are {fate})", dimmed=True)
        self._statistics = statistics(response, first)
        self._images, self._recordings = [], []
        return response

    def _answer_with_tools(self, messages: List[AnyMessage]) -> Tuple[ChatResponse, Optional[float]]:
        from .functions import answer_with_tools

        def keep(messages: List[AnyMessage]) -> None:
            self._conversation.messages[:] = messages if self._conversation.system is None else messages[1:]

        options: Dict[str, Any] = self._conversation.options
        messages = self._conversation.fit(messages)
        return answer_with_tools(self._client, messages, self._given.tool, options, keep, self._terminal)

    # --- on a terminal ------------------------------------------------------------------------------------------------

    def converse(self) -> int:
        """Answer what is typed, until the person leaves. Returns the exit code."""
        self._welcome()
        interrupted = False
        with LineEditor([*COMMANDS, *_ALIASES], coloured=self._terminal.has_colours) as lines:
            while not self._left:
                reading = True
                try:
                    line = lines.read()
                    reading = interrupted = False
                    self._take(line)
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

    def _welcome(self) -> None:
        """Say which model answers, and wait for it while it loads."""
        if not self._client.health():
            self._terminal.say("The model is loading ...")
            self._client.wait_until_ready()
        model = self._given.model
        try:
            model = model or self._client.props().model_alias.rpartition("/")[2]  # it may be the path of the file
        except AuthenticationError:
            raise
        except ServerError:
            pass  # a proxy that passes only the chat route
        name = f"{model or 'llama-server'} at {self._client.endpoint}"
        self._terminal.say(f"{name}. /help lists commands, Ctrl-D leaves.")

    def _take(self, line: str) -> None:
        """Obey a command, or answer a prompt."""
        word, argument = [*line.split(None, 1), "", ""][:2]
        name = _ALIASES.get(word, word)
        if line.startswith("/") or (name != word and not argument):
            self._obey(name, argument.strip())
        elif line.strip():
            response = self.answer(line)
            if response.finish_reason == "length":
                self._terminal.say("(cut at the token limit)")
            elif not response.content:
                self._terminal.say("(an empty answer)")
            self._terminal.say("")  # an empty line between turns

    def _obey(self, name: str, argument: str) -> None:
        if name not in COMMANDS:
            near = suggestion(name, COMMANDS) or " (/help lists them; a space before the / makes it a prompt)"
            raise UsageError(f"unknown command {name!r}{near}")
        wanted = COMMANDS[name][0]
        if bool(argument) != bool(wanted) and not (wanted.startswith("[") and not argument):
            raise UsageError(f"{name} {f'needs a {wanted}' if wanted else 'takes nothing after it'}")
        getattr(self, f"_{name[1:]}")(argument)

    # --- commands -----------------------------------------------------------------------------------------------------

    def _help(self, _: str) -> None:
        for name, (argument, purpose) in COMMANDS.items():
            self._terminal.say(f"{name + ' ' + argument:<15}{purpose}")
        self._terminal.say("Ctrl-C stops an answer. A backslash at the end of a line continues it on the next one.")
        self._terminal.say("/clear is /reset; /exit, /bye, exit and quit are /quit. Tab completes commands and files.")

    def _reset(self, _: str) -> None:
        self._conversation.messages.clear()
        self._conversation.dropped.clear()
        self._statistics = "none yet"
        self._terminal.say("The conversation starts again.")

    def _system(self, text: str) -> None:
        if text:
            self._conversation.system = None if text == "none" else text
        self._terminal.say(f"System prompt: {self._conversation.system or 'none'}")

    def _image(self, path: str) -> None:
        file = os.path.expanduser(path)
        if not os.path.isfile(file):
            raise UsageError(f"{path}: not a file")
        self._images = [*self._images, file]
        self._terminal.say(f"{path} goes with the next prompt.")

    def _save(self, path: str) -> None:
        file = os.path.realpath(os.path.expanduser(path))
        question = f"{path} exists. Overwrite it? [y/N] "
        if file != self._saved and os.path.isfile(file) and input(question).strip().lower() not in ("y", "yes"):
            self._terminal.say("Not saved.")
            return
        self._conversation.save(path)
        self._saved = file
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
