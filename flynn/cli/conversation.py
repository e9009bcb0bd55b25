"""A conversation: its messages, and the file that it is saved in."""

from __future__ import annotations

import json
import os

from ..errors import ConfigError
from ..files import read_json, replace_file
from ..models.local.encode import encode_message
from ..models.types import Message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, List, Mapping, Optional, Union

    AnyMessage = Union[Message, Mapping[str, Any]]


class Conversation:
    """The messages that were exchanged.

    Args:
        system: the system prompt, None for none.

    Attributes:
        messages: all but the system prompt.
    """

    def __init__(self, system: Optional[str] = None) -> None:
        self.system = system
        self.messages: List[AnyMessage] = []

    def with_prompt(self, prompt: str) -> List[AnyMessage]:
        """All that the model gets to see when it is asked something."""
        return [*self._all(), Message("user", prompt)]

    def add(self, prompt: str, answer: Message) -> None:
        self.messages += [Message("user", prompt), answer]

    def load(self, path: str) -> None:
        """Go on with the conversation in a file: a JSON list of messages, as the chat route takes them.

        Raises:
            ConfigError: the file holds something else, or cannot be read.
        """
        messages = _read(path)
        self.system = None
        if messages and messages[0]["role"] == "system" and isinstance(messages[0].get("content"), str):
            self.system = messages.pop(0)["content"]
        self.messages = messages

    def save(self, path: str) -> None:
        """Write the conversation to a file, over an older conversation if need be, but over nothing else.

        Raises:
            ConfigError: there is a file that holds something else, or it cannot be written.
        """
        path = os.path.expanduser(path)
        if os.path.lexists(path):
            try:
                _read(path)
            except ConfigError:
                raise ConfigError("it exists and is no conversation; choose another name", file=path) from None
        text = json.dumps([encode_message(message) for message in self._all()], ensure_ascii=False, indent=2)
        try:
            replace_file(path, text + "\n")
        except OSError as error:
            raise ConfigError(error.strerror or str(error), file=path) from None

    def _all(self) -> List[AnyMessage]:
        system = [] if self.system is None else [Message("system", self.system)]
        return [*system, *self.messages]


def _read(path: str) -> List[Any]:
    if os.path.exists(os.path.expanduser(path)) and not os.path.isfile(os.path.expanduser(path)):
        raise ConfigError("not a regular file", file=path)
    messages = read_json(path)
    if not isinstance(messages, list):
        raise ConfigError("not a conversation: that is a list of messages", file=path)
    for number, message in enumerate(messages, 1):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise ConfigError(f"message {number} is no object with a role", file=path)
        if not isinstance(message.get("content"), (str, list, type(None))):
            raise ConfigError(f"the content of message {number} is no text and no list of parts", file=path)
    return messages
