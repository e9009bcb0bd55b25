"""`flynn chat`: a conversation, typed on a terminal or read line by line."""

from __future__ import annotations

import sys
from typing import Optional, Sequence

from ..conversation import Conversation, summarise
from ..errors import AuthenticationError, FlynnError, ServerError, suggestion
from ..models.local.llamacpp import LlamaCppClient
from ..models.messages import AnyMessage
from ..models.types import ChatResponse
from .ask import show, statistics
from .exits import DONE, INTERRUPTED, UsageError
from .line_editor import LineEditor
from .options import Given, Parser, connect, request_options
from .terminal import Terminal

EXAMPLES = """\
  flynn chat
  flynn chat --system "Answer in French." --temperature 0.2
  printf '%s\\n' "Name a fruit." "And its colour?" | flynn chat

On a terminal, Ctrl-C stops an answer, a backslash at the end of a line goes on in
the next one, and /help lists the commands. Otherwise each line of standard input
is a prompt, and only the answers are printed. What no longer fits the context is
forgotten, the oldest first."""

# What a line may begin with; `Chat` has a method for each. Its argument, and what it does.
COMMANDS = {
    "/help": ("", "show this"),
    "/reset": ("", "forget all messages; the system prompt stays"),
    "/system": ("[TEXT]", "set the system prompt, or take it away"),
    "/save": ("FILE", "write the conversation to a file"),
    "/load": ("FILE", "go on with a conversation that was saved"),
    "/stats": ("", "tell what the last answer cost"),
    "/quit": ("", "leave, as Ctrl-D does"),
}


_NO_ANSWER = "none yet"


def add_options(parser: Parser) -> None:
    parser.add_argument("--system", metavar="TEXT", help="system prompt")
    parser.add_argument("--summarise", action="store_true", help="have what no longer fits summed up, not forgotten")
    parser.add_request_options()


def run(given: Given, terminal: Terminal) -> int:
    options = request_options(given)
    if terminal.err_is_terminal:
        options["return_progress"] = True
    with connect(given) as client:
        chat = Chat(client, terminal, Conversation(client, given.system, **options), summing_up=given.summarise)
        if sys.stdin is not None and sys.stdin.isatty() and terminal.out_is_terminal:
            from .line_editor import LineEditor

            chat.welcome(given.model)
            with LineEditor() as lines:
                return chat.converse(lines)
        for line in sys.stdin or ():
            if line.strip():
                chat.answer(line.rstrip("\r\n"))
    return DONE


class Chat:
    """A conversation of a person, or of a program, with a model.

    Args:
        summing_up: whether turns that no longer fit are summed up, or else forgotten.
    """

    def __init__(
        self, client: LlamaCppClient, terminal: Terminal, conversation: Conversation, *, summing_up: bool
    ) -> None:
        self._client = client
        self._terminal = terminal
        self._conversation = conversation
        self._summing_up = summing_up
        conversation.rule = self._make_room
        self._statistics = _NO_ANSWER
        self._left = False

    def welcome(self, model: Optional[str]) -> None:
        """Say what the conversation is with, and wait for it if it is not ready."""
        if not self._client.health():
            self._terminal.say("The model is loading ...")
            self._client.wait_until_ready()
        try:
            model = model or self._client.props().model_alias.rpartition("/")[2]  # it may be the path of the file
        except AuthenticationError:
            raise
        except ServerError:
            pass  # a proxy that lets only the chat through
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
                if line.startswith("/"):
                    self._obey(line)
                elif line.strip():
                    self._remark_on(self.answer(line))
            except EOFError:
                self._terminal.write("\n")
                return DONE
            except KeyboardInterrupt:
                if not reading:
                    self._terminal.say("(stopped)")
                    continue
                self._terminal.write("\n")
                if interrupted:
                    return INTERRUPTED
                interrupted = True
                self._terminal.say("(Ctrl-C again or Ctrl-D to leave)")
            except FlynnError as error:
                self._terminal.fail(str(error))
        return DONE

    def answer(self, prompt: str) -> ChatResponse:
        """Have a prompt answered. An answer that was cut short, by whatever, stays in the conversation as it is."""
        stream = self._conversation.chat_stream(prompt)
        first = None
        try:
            first = show(stream, self._terminal)
        finally:
            self._statistics = statistics(stream.response, first)
        return stream.response

    def _make_room(self, oldest: Conversation) -> Sequence[AnyMessage]:
        what = "summed up" if self._summing_up else "forgotten"
        self._terminal.say(f"(the context is full: the oldest {len(oldest.messages)} messages are {what})", dimmed=True)
        return summarise(oldest) if self._summing_up else ()

    def _remark_on(self, response: ChatResponse) -> None:
        if response.finish_reason == "length":
            self._terminal.say("(cut at the token limit)")
        elif not response.content:
            self._terminal.say("(an empty answer)")

    # --- commands -----------------------------------------------------------------------------------------------------

    def _obey(self, line: str) -> None:
        name, argument = [*line.split(None, 1), ""][:2]
        argument = argument.strip()
        if name not in COMMANDS:
            near = suggestion(name, COMMANDS) or " (/help lists them; a blank before the / makes it a prompt)"
            raise UsageError(f"unknown command {name!r}{near}")
        wanted = COMMANDS[name][0]
        if bool(argument) != bool(wanted) and not (wanted.startswith("[") and not argument):
            raise UsageError(f"{name} {f'wants a {wanted}' if wanted else 'takes nothing after it'}")
        getattr(self, f"_{name[1:]}")(argument)

    def _help(self, _: str) -> None:
        for name, (argument, purpose) in COMMANDS.items():
            self._terminal.say(f"{name + ' ' + argument:<15}{purpose}")
        self._terminal.say("Ctrl-C stops an answer. A backslash at the end of a line goes on in the next one.")

    def _reset(self, _: str) -> None:
        self._conversation.messages.clear()
        self._conversation.dropped.clear()
        self._statistics = _NO_ANSWER
        self._terminal.say("The conversation begins anew.")

    def _system(self, text: str) -> None:
        self._conversation.system = text or None
        self._terminal.say("System prompt set." if text else "No system prompt.")

    def _save(self, path: str) -> None:
        self._conversation.save(path)
        self._terminal.say(f"Saved in {path}.")

    def _load(self, path: str) -> None:
        self._conversation.load(path)
        self._terminal.say(f"{len(self._conversation.messages)} messages loaded.")

    def _stats(self, _: str) -> None:
        self._terminal.say(f"{len(self._conversation.messages)} messages; last answer: {self._statistics}")

    def _quit(self, _: str) -> None:
        self._left = True
