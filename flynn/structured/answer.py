"""The answer that a request with a schema wants: what is sent for it, and how its text becomes an instance."""

from __future__ import annotations

import collections.abc
import json
from typing import Any, Dict, Generic, Mapping, NoReturn, TypeVar

from ..errors import StructuredOutputError
from .build import Misfit, build_form, key_path
from .forms import Form, Plain, form_of
from .partial import PartialJSON
from .schema import schema_of_form

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..models.types import ChatResponse, Prompt

T = TypeVar("T")

_CONSTRAINTS = ("response_format", "json_schema", "grammar")


class Answer(Generic[T]):
    """An answer of some type.

    Args:
        wanted: a type, or a JSON schema as a mapping.

    Raises:
        TypeError: JSON cannot express the type; one line that says what, and where.
    """

    def __init__(self, wanted: object) -> None:
        if isinstance(wanted, collections.abc.Mapping):
            self.schema: Mapping[str, Any] = wanted
            self._form: Form = Plain("any")
        else:
            self._form = form_of(wanted)
            self.schema = schema_of_form(self._form)

    def options(self, request: Prompt, options: Mapping[str, Any]) -> Dict[str, Any]:
        """The options of a chat request, with the schema among them.

        Raises:
            TypeError: the request has a constraint of its own.
        """
        for name in _CONSTRAINTS:
            if options.get(name, getattr(request, name, None)) is not None:
                raise TypeError(f"the schema is all that may constrain the answer: leave out {name}")
        # Not json_schema, since servers that are not llama.cpp's, and proxies, know this one.
        named = {"name": "answer", "schema": self.schema}
        return {**options, "response_format": {"type": "json_schema", "json_schema": named}}

    def read(self, response: ChatResponse) -> T:
        """The instance that a response holds.

        Raises:
            StructuredOutputError: it holds none.
        """
        try:
            value = json.loads(response.content, parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            raise unreadable(response, error) from error
        if response.finish_reason == "length" and type(value) in (int, float):  # more digits might have come
            raise StructuredOutputError(_ran_out(response, ""), response)
        try:
            return build_form(self._form, value)  # type: ignore[no-any-return]
        except Misfit as misfit:
            raise StructuredOutputError(f"the answer does not fit: {misfit}", response) from misfit


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"JSON has no {constant}")


def unreadable(response: ChatResponse, error: Exception) -> StructuredOutputError:
    """The error that says why the text of a response is not JSON, or not all of it."""
    partial = PartialJSON()
    problem = "nested too deeply" if isinstance(error, RecursionError) else str(error)
    try:
        partial.feed(response.content)
        partial.end()
    except ValueError as found:
        problem = str(found)
    place = f" at {path}" if (path := key_path(partial.keys)) else ""
    if response.finish_reason == "length":
        return StructuredOutputError(_ran_out(response, place), response)
    if response.tool_calls:
        return StructuredOutputError("the model calls tools instead of answering", response)
    if not response.content.strip():
        return StructuredOutputError("the answer is empty", response)
    return StructuredOutputError(f"the answer is not JSON{place}: {problem}", response)


def _ran_out(response: ChatResponse, place: str) -> str:
    spent = f", after {response.usage.completion_tokens} of them" if response.usage else ""
    return f"the model ran out of tokens{place}{spent}: raise max_tokens, or bound what the schema allows"
