"""A function as a tool: its definition for the model, and how it is called with the model's arguments."""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
from typing import Any, Callable, Dict, List, Literal, Optional

import pytest

from flynn import Tool
from flynn.tools import ArgumentsError


class Unit(enum.Enum):
    CELSIUS = "C"
    FAHRENHEIT = "F"


@dataclasses.dataclass
class Place:
    city: str
    country: str = "NO"


def get_weather(city: str, days: int = 1, unit: Literal["C", "F"] = "C") -> Undefined:  # type: ignore[name-defined]  # noqa: F821
    """Tell the weather.

    From several services.

    Args:
        city: its name
        days (int): how many
        country: not a parameter

    Returns:
        what it is
    """
    return (city, days, unit)


def visit(place: Place, units: List[Unit], by: Optional[str] = None) -> Any:
    """
    :param place: where to
    """
    return (place, units, by)


def nothing() -> str:
    return "done"


def definition_of(function: Callable[..., Any]) -> Dict[str, Any]:
    """Return the definition of a function, without its type."""
    definition = Tool(function).definition
    assert definition["type"] == "function"
    inner: Dict[str, Any] = definition["function"]
    return inner


# --- definitions ------------------------------------------------------------------------------------------------------


def test_name_description_and_parameters_come_from_the_function() -> None:
    assert definition_of(get_weather) == {
        "name": "get_weather",
        "description": "Tell the weather.\n\nFrom several services.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "its name"},
                "days": {"type": "integer", "description": "how many"},
                "unit": {"type": "string", "enum": ["C", "F"]},
            },
            "required": ["city"],
            "additionalProperties": False,
        },
    }
    assert Tool(get_weather).name == "get_weather"


def test_the_return_annotation_is_not_evaluated() -> None:
    assert get_weather.__annotations__["return"] == "Undefined"
    assert definition_of(get_weather)["parameters"]["required"] == ["city"]


def test_parameters_may_be_dataclasses_enums_and_lists() -> None:
    parameters = definition_of(visit)["parameters"]
    assert parameters["properties"]["place"]["description"] == "where to"
    assert parameters["properties"]["place"]["properties"]["country"] == {"type": "string"}
    assert parameters["properties"]["units"] == {"type": "array", "items": {"type": "string", "enum": ["C", "F"]}}
    assert parameters["required"] == ["place", "units"]


def test_a_function_needs_neither_parameters_nor_a_docstring() -> None:
    assert definition_of(nothing)["description"] == ""
    assert definition_of(nothing)["parameters"]["properties"] == {}


def test_a_parameter_without_annotation_takes_any_json() -> None:
    def remember(thing, *, twice=False):  # type: ignore[no-untyped-def]
        return thing, twice

    assert definition_of(remember)["parameters"]["required"] == ["thing"]
    for thing in (1, "x", None, [{}], {"a": 1}, True):
        assert Tool(remember).bind(json.dumps({"thing": thing, "twice": 0}))() == (thing, 0)


def test_methods_partials_and_classes_can_be_tools() -> None:
    class Station:
        def __init__(self, name: str) -> None:
            self.name = name

        def wind(self, hour: int) -> str:
            """The wind."""
            return f"{self.name} {hour}"

    tool = Tool(Station("Oslo").wind)
    assert (tool.name, tool.definition["function"]["description"]) == ("wind", "The wind.")
    assert tool.bind('{"hour": 3}')() == "Oslo 3"
    assert Tool(Station).bind('{"name": "Rome"}')().name == "Rome"
    assert Tool(functools.partial(get_weather, "Oslo")).bind('{"days": 2}')() == ("Oslo", 2, "C")
    words: List[Any] = []
    Tool(words.append).bind('{"object": "x"}')()  # a built-in method has no module
    assert words == ["x"]


def test_the_model_cannot_set_arguments_that_a_partial_has_set() -> None:
    tool = Tool(functools.partial(get_weather, unit="F"))
    assert list(tool.definition["function"]["parameters"]["properties"]) == ["city", "days"]
    assert tool.bind('{"city": "Oslo"}')() == ("Oslo", 1, "F")
    with pytest.raises(ArgumentsError, match="^unit: "):
        tool.bind('{"city": "Oslo", "unit": "C"}')


def test_a_decorated_function_has_the_definition_of_the_inner_one() -> None:
    @functools.wraps(get_weather)
    def decorated(*args: Any, **kwargs: Any) -> Any:
        return "decorated", get_weather(*args, **kwargs)

    assert definition_of(decorated) == definition_of(get_weather)
    assert Tool(decorated).bind('{"city": "Oslo"}')() == ("decorated", ("Oslo", 1, "C"))


def test_a_given_definition_replaces_the_one_from_the_function() -> None:
    definition = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    tool = Tool(lambda **arguments: arguments, definition)
    assert (tool.name, tool.definition) == ("look", definition)
    assert tool.bind('{"at": {"x": 1}, "self": 2}')() == {"at": {"x": 1}, "self": 2}


def test_asynchronous_functions_are_recognised() -> None:
    async def wait() -> None:
        pass

    class Waiter:
        async def __call__(self) -> None:
            pass

    assert Tool(wait).asynchronous
    assert Tool(functools.partial(wait)).asynchronous
    assert Tool(Waiter(), {"function": {"name": "wait"}}).asynchronous
    assert not Tool(nothing).asynchronous
    assert not Tool(Waiter).asynchronous


def spread(*cities: str) -> None: ...


def named(city: str, **options: str) -> None: ...


def wrong(city: complex) -> None: ...


def lost(city: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (spread, r"spread: \*cities: 'str' cannot be expressed in JSON; describe it yourself: flynn.Tool\("),
        (named, r"named: \*\*options: 'str' cannot be expressed in JSON; describe it yourself: flynn.Tool\("),
        (wrong, "wrong.city: complex cannot be expressed in JSON"),
        (lost, "lost: .*'Nowhere' is not defined"),
        (lambda city: city, "<function .*<lambda> at .*> has no name; describe it yourself: flynn.Tool"),
        (functools.partial(lambda city: city), "<function .*<lambda> at .*> has no name"),
        (type, "type: its parameters are not known; describe it yourself"),
        ("get_weather", "a tool is a function or a flynn.Tool, not str"),
        (Place("Oslo"), "a tool is a function or a flynn.Tool, not Place"),
    ],
)
def test_an_invalid_tool_is_a_one_line_type_error(function: Any, message: str) -> None:
    with pytest.raises(TypeError, match=f"^{message}") as caught:
        Tool(function)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("definition", [{}, {"name": "x"}, {"function": None}, {"function": {}}])
def test_a_definition_needs_a_name(definition: Dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="^a definition is {"):
        Tool(nothing, definition)


# --- arguments --------------------------------------------------------------------------------------------------------


def test_arguments_have_the_types_of_the_annotations() -> None:
    arguments = {"place": {"city": "Rome", "country": "IT"}, "units": ["C", "F"], "by": None}
    assert Tool(visit).bind(json.dumps(arguments))() == (Place("Rome", "IT"), [Unit.CELSIUS, Unit.FAHRENHEIT], None)
    assert Tool(visit).bind('{"place": {"city": "Oslo"}, "units": []}')() == (Place("Oslo"), [], None)


def test_a_missing_argument_has_the_default_of_the_function() -> None:
    default: List[int] = []

    def take(numbers: List[int] = default) -> List[int]:
        return numbers

    assert Tool(take).bind("{}")() is default


def test_every_kind_of_parameter_receives_its_argument() -> None:
    def mixed(a: int, b: int = 2, /, c: int = 3, *, d: int, e: int = 5) -> Any:
        return a, b, c, d, e

    assert Tool(mixed).bind('{"d": 4, "a": 1}')() == (1, 2, 3, 4, 5)
    assert Tool(mixed).bind('{"e": 50, "d": 40, "c": 30, "b": 20, "a": 10}')() == (10, 20, 30, 40, 50)


def test_a_call_without_arguments_may_be_empty() -> None:
    for arguments in ("", "{}", " {} "):
        assert Tool(nothing).bind(arguments)() == "done"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ('{"city": "Par', "the arguments are not JSON: Unterminated string starting at: line 1 column 10 (char 9)"),
        ("get_weather()", "the arguments are not JSON: Expecting value: line 1 column 1 (char 0)"),
        ('["Paris"]', "the arguments are not a JSON object with a member for each"),
        ("null", "the arguments are not a JSON object with a member for each"),
        ("{}", "city: missing"),
        ('{"city": 3}', "city: expected a string, got 3"),
        ('{"city": "Paris", "days": "2"}', 'days: expected an integer, got "2"'),
        ('{"city": "Paris", "unit": "K"}', 'unit: expected "C" or "F", got "K"'),
        ('{"town": "Paris"}', "town: get_weather has no such key"),
        ('{"city": "Paris", "day": 1}', "day: get_weather has no such key; did you mean 'days'?"),
    ],
)
def test_invalid_arguments_are_a_one_line_error(arguments: str, message: str) -> None:
    with pytest.raises(ArgumentsError) as caught:
        Tool(get_weather).bind(arguments)
    assert str(caught.value) == message


def test_the_error_has_the_path_of_a_nested_argument() -> None:
    with pytest.raises(ArgumentsError, match=r'^units\[1\]: expected "C" or "F", got "K"$'):
        Tool(visit).bind('{"place": {"city": "Oslo"}, "units": ["C", "K"]}')
    with pytest.raises(ArgumentsError, match="^place.city: missing$"):
        Tool(visit).bind('{"place": {}, "units": []}')


def test_arguments_nested_too_deeply_are_an_error() -> None:
    with pytest.raises(ArgumentsError, match="^the arguments are not JSON: nested too deeply$"):
        Tool(nothing).bind('{"a":' * 100_000)
