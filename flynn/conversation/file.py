"""The file of a conversation: a JSON list of messages, in the form of the chat route."""

from __future__ import annotations

import json
import os
from typing import Any, List, Sequence

from ..errors import FileError
from ..files import read_json, replace_file
from ..models.local.encode import encode_message
from ..models.messages import AnyMessage


def read_messages(path: str) -> List[Any]:
    """Return the messages in a file. Raises FileError if it cannot be read, or is not a conversation."""
    place = os.path.expanduser(path)
    if os.path.exists(place) and not os.path.isfile(place):
        raise FileError("not a regular file", file=path)
    messages = read_json(path)
    if not isinstance(messages, list):
        raise FileError("not a conversation: expected a list of messages", file=path)
    for number, message in enumerate(messages, 1):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise FileError(f"message {number} is not an object with a role", file=path)
        if not isinstance(message.get("content"), (str, list, type(None))):
            raise FileError(f"the content of message {number} is neither text nor a list of parts", file=path)
    return messages


def write_messages(path: str, messages: Sequence[AnyMessage]) -> None:
    """Write messages to a file. It may replace a conversation; for any other file, raises FileError."""
    path = os.path.expanduser(path)
    if os.path.lexists(path):
        try:
            read_messages(path)
        except FileError:
            raise FileError("it exists and is not a conversation; choose another name", file=path) from None
    text = json.dumps([encode_message(message) for message in messages], ensure_ascii=False, indent=2)
    try:
        replace_file(path, text + "\n")
    except OSError as error:
        raise FileError(error.strerror or str(error), file=path) from None
