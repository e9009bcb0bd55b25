"""Data classes that are cheap to define, and are dataclasses to everybody who asks."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import subprocess
import sys
from typing import Any

import pytest

from flynn import ChatRequest, Message
from flynn.dataclass import dataclass, fields, replace
from flynn.models.types import ContentEvent, Usage


def test_they_are_made_compared_hashed_and_shown_like_dataclasses() -> None:
    usage = Usage(1, completion_tokens=2)
    assert (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens) == (1, 2, 0)
    assert usage == Usage(1, 2) != Usage(1, 3)
    assert usage != (1, 2, 0)
    assert hash(usage) == hash(Usage(1, 2))
    assert repr(usage) == "Usage(prompt_tokens=1, completion_tokens=2, cached_tokens=0)"
    assert repr(Message("user", "Hi")) == "Message('user', 'Hi')"


def test_they_are_frozen() -> None:
    usage = Usage()
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field 'prompt_tokens'"):
        usage.prompt_tokens = 1  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot delete field 'prompt_tokens'"):
        del usage.prompt_tokens


@pytest.mark.parametrize("wrong", [{}, {"role": "user", "colour": "red"}])
def test_wrong_arguments_are_a_type_error_that_names_them(wrong: Any) -> None:
    with pytest.raises(TypeError, match="role|colour"):
        Message(**wrong)


@pytest.mark.parametrize("wrong", [{}, {"x": 1, "z": 2}])
def test_the_first_instance_of_a_class_is_made_as_strictly(wrong: Any) -> None:
    @dataclass(frozen=True)
    class Point:
        x: int
        y: int = 0

    with pytest.raises(TypeError, match="'x'|'z'"):
        Point(**wrong)
    assert Point(1) == Point(1, 0) == Point(x=1, y=0)


def test_the_standard_library_takes_them_for_dataclasses() -> None:
    assert dataclasses.is_dataclass(ChatRequest)
    assert [field.name for field in dataclasses.fields(Usage)] == [field.name for field in fields(Usage)]
    assert dataclasses.asdict(Usage(1)) == {"prompt_tokens": 1, "completion_tokens": 0, "cached_tokens": 0}
    assert dataclasses.astuple(ContentEvent("x")) == ("x", 0, (), "content")
    request = ChatRequest([Message("user", "Hi")], max_tokens=5)
    assert dataclasses.replace(request, seed=1) == replace(request, seed=1)
    assert dataclasses.replace(request, seed=1).max_tokens == 5
    assert dataclasses.fields(ChatRequest)[1].metadata["command"]


def test_help_shows_their_arguments() -> None:
    assert str(inspect.signature(Usage)) == "(prompt_tokens=0, completion_tokens=0, cached_tokens=0)"


def test_each_has_a_default_of_its_own_where_a_factory_makes_it() -> None:
    assert ChatRequest([]).extra is not ChatRequest([]).extra


def test_they_can_be_pickled_and_copied() -> None:
    message = Message("user", "Hi", name="Ann")
    assert pickle.loads(pickle.dumps(message)) == copy.copy(message) == copy.deepcopy(message) == message


@pytest.mark.skipif(sys.version_info < (3, 10), reason="match came with Python 3.10")
def test_they_can_be_matched_by_position() -> None:
    made: Any = {}
    exec("match Usage(3):\n  case Usage(count): pass", {"Usage": Usage}, made)
    assert made["count"] == 3


def test_a_chat_loads_none_of_what_makes_the_standard_librarys_slow() -> None:
    code = """
import sys
bare = set(sys.modules)
import http.client, json
known = set(sys.modules)
from flynn import LlamaCppClient, Message
try:
    LlamaCppClient("http://127.0.0.1:9", timeout=1).chat([Message("user", "Hi")], max_tokens=1)
except ConnectionError:
    print(*sorted(set(sys.modules) - known))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = run.stdout.split()
    assert loaded
    assert [name for name in loaded if not name.startswith(("flynn", "encodings", "_"))] == ["gc"]
