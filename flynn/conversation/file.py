"""The file that a conversation is kept in: a JSON list of messages, as the chat route takes them."""

from __future__ import annotations

import json
import os
from typing import Any, List, Sequence

from ..errors import FileError
from ..files import read_json, replace_file
from ..models.local.encode import encode_message
from ..models.messages import AnyMessage


def read_messages(path: str) -> List[Any]:
    """The messages in a file; FileError if it holds something else, or cannot be read."""
    place = os.path.expanduser(path)
    if os.path.exists(place) and not os.path.isfile(place):
        raise FileError("not a regular file", file=path)
    messages = read_json(path)
    if not isinstance(messages, list):
        raise FileError("not a conversation: that is a list of messages", file=path)
    for number, message in enumerate(messages, 1):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise FileError(f"message {number} is no object with a role", file=path)
        if not isinstance(message.get("content"), (str, list, type(None))):
            raise FileError(f"the content of message {number} is no text and no list of parts", file=path)
    return messages


def write_messages(path: str, messages: Sequence[AnyMessage]) -> None:
    """Write messages to a file, over an older conversation if need be, but over nothing else: FileError."""
    path = os.path.expanduser(path)
    if os.path.lexists(path):
        try:
            read_messages(path)
        except FileError:
            raise FileError("it exists and is no conversation; choose another name", file=path) from None
    text = json.dumps([encode_message(message) for message in messages], ensure_ascii=False, indent=2)
    try:
        replace_file(path, text + "\n")
    except OSError as error:
        raise FileError(error.strerror or str(error), file=path) from None
