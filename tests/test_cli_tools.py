"""`flynn ask --tool`: Python functions that the model may call."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Tuple

import pytest
from command import Home, routes
from real_server import RealServer
from scripted import STREAM_HEAD, Peer, Script, chunk, delta, error, response, serve, stream

WEATHER = '''
import dataclasses
import helping
import time
from flynn import Tool

@dataclasses.dataclass
class Place:
    city: str

def get_weather(city: str) -> str:
    """Tell the weather."""
    print("looking", city)
    return helping.sun(city)

def at(place: "Place") -> str:
    return place.city

def broken() -> None:
    raise OSError("no network")

async def slow(city: str) -> str: ...

def wait() -> None:
    print("waiting", flush=True)
    while True:  # Python may overlook a signal that comes just before it sleeps
        time.sleep(0.02)

def spread(*cities): ...

NUMBER = 7
look = Tool(lambda **given: given, {"type": "function", "function": {"name": "look"}})
'''


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path)
    home.write("weather.py", WEATHER)
    home.write("helping.py", "def sun(city): return f'Sun\\nin {city}'")
    return home


def call(name: str, arguments: str = "{}") -> Dict[str, Any]:
    return {"id": name, "function": {"name": name, "arguments": arguments}}


OSLO = call("get_weather", '{"city": "Oslo"}')


def replying(*replies: bytes) -> Script:
    """A server that answers one chat request after the other."""
    left = iter(replies)
    return routes({}, lambda peer: peer.send(next(left)))


def calling(*calls: Dict[str, Any], text: str = "") -> bytes:
    """A reply that says a text, and calls functions."""
    fragments = [delta(tool_calls=[{"index": index, **call}]) for index, call in enumerate(calls)]
    return stream(*([delta(text)] if text else []), *fragments, delta(finish_reason="tool_calls"))


WARM = stream(delta("Wa"), delta("rm."), delta(finish_reason="stop"))


# --- a run ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["weather:get_weather", "weather.py:get_weather", "./weather.py:get_weather"])
def test_a_function_is_called_and_its_result_sent(home: Home, name: str) -> None:
    with serve(replying(calling(OSLO), WARM)) as server:
        ended = home.run("ask", "Weather?", "--tool", name, "--endpoint", server.endpoint)
    assert ended == (0, "Warm.\n", "looking Oslo\n")
    first, second = (request.json for request in server.requests if request.method == "POST")
    assert first["tools"][0]["function"]["description"] == "Tell the weather."
    assert second["messages"][-1]["content"] == "Sun\nin Oslo"


def test_several_functions_may_be_given_from_one_file(home: Home) -> None:
    calls = [call("at", '{"place": {"city": "Rome"}}'), call("look", '{"x": 1}'), call("broken", "")]
    options = [word for name in ("at", "look", "broken") for word in ("--tool", f"weather.py:{name}")]
    with serve(replying(calling(*calls), WARM)) as server:
        assert home.run("ask", "Weather?", *options, "--endpoint", server.endpoint) == (0, "Warm.\n", "")
    last = [request.json for request in server.requests if request.method == "POST"][-1]
    told = [message["content"] for message in last["messages"][-3:]]
    assert told == ["Rome", '{"x": 1}', "error: OSError: no network"]


def test_a_file_elsewhere_is_found_with_what_it_imports(home: Home, tmp_path: Path) -> None:
    folder = tmp_path / "else where"
    folder.mkdir()
    for name in ("weather.py", "helping.py"):
        (tmp_path / name).rename(folder / name)
    with serve(replying(calling(OSLO), WARM)) as server:
        ended = home.run("ask", "Hi", "--tool", f"{folder}/weather.py:get_weather", "--endpoint", server.endpoint)
    assert (ended.code, ended.out) == (0, "Warm.\n")


def test_the_reply_as_json_is_the_answer_and_nothing_else(home: Home) -> None:
    with serve(replying(calling(OSLO, text="Let me see."), WARM)) as server:
        ended = home.run("ask", "Hi", "--tool", "weather:get_weather", "--json", "--endpoint", server.endpoint)
    assert json.loads(ended.out)["choices"][0]["message"] == {"role": "assistant", "content": "Warm."}
    assert ended.err == "looking Oslo\n"


def test_what_the_model_says_before_it_calls_is_a_line_of_its_own(home: Home) -> None:
    with serve(replying(calling(OSLO, text="Let me see."), WARM)) as server:
        ended = home.run("ask", "Hi", "--tool", "weather:get_weather", "--endpoint", server.endpoint)
    assert ended.out == "Let me see.\nWarm.\n"


def test_a_terminal_shows_calls_and_results_dimmed(home: Home) -> None:
    long = '{"x": "\\u001b[31m' + "y" * 400 + '"}'
    calls = [OSLO, call("broken"), call("look", long)]
    options = [word for name in ("get_weather", "broken", "look") for word in ("--tool", f"weather:{name}")]
    server = serve(replying(calling(*calls, text="Let me see."), WARM))
    with server, home.terminal("ask", "Hi", "--endpoint", server.endpoint, *options) as terminal:
        assert terminal.end() == 0
    assert terminal.text.split("\r\n") == [
        "Let me see.",
        '\x1b[2mget_weather {"city": "Oslo"}\x1b[0m',
        "\x1b[2mbroken {}\x1b[0m",
        f"\x1b[2m{f'look {long}'[:300]}…\x1b[0m",
        "looking Oslo",
        "\x1b[2m-> Sun in Oslo\x1b[0m",
        "\x1b[2m-> error: OSError: no network\x1b[0m",
        f"\x1b[2m{f'-> {long}'[:300]}…\x1b[0m",
        "Warm.",
        "",
    ]


def test_control_characters_in_a_result_do_not_reach_the_terminal(home: Home) -> None:
    server = serve(replying(calling(call("at", '{"place": {"city": "\\u001b[31mRed"}}')), WARM))
    with server, home.terminal("ask", "Hi", "--endpoint", server.endpoint, "--tool", "weather:at") as terminal:
        terminal.expect("\x1b[2m-> [31mRed\x1b[0m")
        assert terminal.end() == 0


def test_the_answer_is_streamed_and_can_be_interrupted(home: Home) -> None:
    first = iter([calling(call("look"))])

    def chat(peer: Peer) -> None:
        peer.send(next(first, STREAM_HEAD))
        while len(server.requests) > 2:  # POST, DELETE, POST
            peer.send(chunk(delta("Warm. ")))
            time.sleep(0.02)

    server = serve(routes({}, chat))
    with server, home.terminal("ask", "Hi", "--tool", "weather:look", "--endpoint", server.endpoint) as terminal:
        terminal.expect("Warm. Warm.")
        terminal.interrupt()
        assert terminal.end() == 130


def test_a_function_can_be_interrupted(home: Home) -> None:
    server = serve(replying(calling(call("wait"))))
    with server, home.terminal("ask", "Hi", "--tool", "weather:wait", "--endpoint", server.endpoint) as terminal:
        terminal.expect("waiting")
        terminal.interrupt()
        assert terminal.end() == 130
    assert "Traceback" not in terminal.text


def test_a_model_that_never_answers_is_an_error(home: Home) -> None:
    with serve(replying(*[calling(call("look"))] * 10)) as server:
        ended = home.run("ask", "Hi", "--tool", "weather:look", "--endpoint", server.endpoint)
    assert ended == (1, "", "flynn: the model still calls tools after 10 rounds\n")


# --- the conversation that ask -c continues -------------------------------------------------------------------------


def kept(home: Home) -> List[Tuple[str, str]]:
    """The roles and texts of the last conversation."""
    file = home.path / ".local" / "state" / "flynn" / "last.json"
    return [(message["role"], message["content"]) for message in json.loads(file.read_text())] if file.exists() else []


LOOKED = [("user", "Hi"), ("assistant", ""), ("tool", "{}")]


def test_an_answer_that_is_interrupted_is_kept_as_far_as_it_was_written(home: Home) -> None:
    first = iter([calling(call("look"))])

    def chat(peer: Peer) -> None:
        reply = next(first, None)
        peer.send(reply or STREAM_HEAD + chunk(delta("Wa")))
        if reply is None:
            peer.stall()

    server = serve(routes({}, chat))
    with server, home.terminal("ask", "Hi", "--tool", "weather:look", "--endpoint", server.endpoint) as terminal:
        terminal.expect("Wa")
        terminal.interrupt()
        assert terminal.end() == 130
    assert kept(home) == [*LOOKED, ("assistant", "Wa")]
    with serve(replying(WARM)) as server:
        assert home.run("ask", "-c", "And?", "--endpoint", server.endpoint).out == "Warm.\n"
    (asked,) = (request.json for request in server.requests if request.target == "/v1/chat/completions")
    sent = [(message["role"], message["content"]) for message in asked["messages"]]
    assert sent == [*LOOKED, ("assistant", "Wa"), ("user", "And?")]


def test_the_calls_of_a_run_that_fails_are_kept(home: Home) -> None:
    with serve(replying(calling(call("look")), response(error(500, "no memory", "server_error"), "500 No"))) as server:
        ended = home.run("ask", "Hi", "--tool", "weather:look", "--endpoint", server.endpoint)
    assert ended == (1, "", "flynn: no memory\n")
    assert kept(home) == [*LOOKED, ("assistant", "")]


def test_a_run_that_is_interrupted_before_anything_is_done_leaves_the_last_conversation(home: Home) -> None:
    with serve(replying(WARM)) as server:
        home.run("ask", "Hi", "--endpoint", server.endpoint)
    server = serve(replying(calling(call("wait"))))
    with server, home.terminal("ask", "Now?", "--tool", "weather:wait", "--endpoint", server.endpoint) as terminal:
        terminal.expect("waiting")
        terminal.interrupt()
        assert terminal.end() == 130
    assert kept(home) == [("user", "Hi"), ("assistant", "Warm.")]


# --- what is wrong ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("weather", "expected MODULE:FUNCTION or FILE.py:FUNCTION"),
        (":f", "expected MODULE:FUNCTION or FILE.py:FUNCTION"),
        ("weather:", "expected MODULE:FUNCTION or FILE.py:FUNCTION"),
        ("weather:a.b", "expected MODULE:FUNCTION or FILE.py:FUNCTION"),
        ("nowhere:f", "there is no module 'nowhere', neither here nor on sys.path"),
        ("nowhere.inside:f", "there is no module 'nowhere', neither here nor on sys.path"),
        ("weather.inside:f", "there is no module 'weather.inside', neither here nor on sys.path"),
        (".weather:f", "cannot import .weather: TypeError: the 'package' argument is required"),
        ("nowhere.py:f", "there is no file {home}/nowhere.py"),
        ("weather:get_wether", "there is no 'get_wether' in {home}/weather.py; did you mean 'get_weather'?"),
        ("weather:NUMBER", "'NUMBER' is not a function in {home}/weather.py"),
        ("math:pi", "'pi' is not a function in "),
        ("weather:slow", "the function is asynchronous; only a plain one can be called here"),
        ("weather:spread", "spread: *cities cannot be expressed in JSON; describe it yourself: "),
        ("bad_syntax:f", "cannot import bad_syntax: SyntaxError: "),
        ("absent:f", "cannot import absent: ModuleNotFoundError: No module named 'missing' ({home}/absent.py, line 2)"),
        ("absent.py:f", "cannot import absent.py: ModuleNotFoundError: No module named 'missing' ({home}/absent.py, "),
        ("raises:f", "cannot import raises: ValueError: two lines ({home}/raises.py, line 3)"),
        ("leaves:f", "cannot import leaves: it ends the program; put what is not to be imported under if __name__ == "),
    ],
)
def test_a_function_that_cannot_be_loaded_is_wrong_usage(home: Home, name: str, message: str) -> None:
    home.write("bad_syntax.py", "def f(:\n")
    home.write("absent.py", "\nimport missing\n")
    home.write("raises.py", "\ndef f():\n    raise ValueError('two\\nlines')\nf()\n")
    home.write("leaves.py", "import sys\nsys.exit(0)\n")
    ended = home.run("ask", "Hi", "--tool", name)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"flynn: --tool {name}: {message.format(home=home.path)}")
    assert ended.err.count("\n") == 1


def test_a_function_given_twice_is_wrong_usage(home: Home) -> None:
    ended = home.run("ask", "Hi", "--tool", "weather:look", "--tool", "weather.py:look")
    assert ended == (2, "", "flynn: --tool: two tools have the name 'look'\n")


def test_a_file_in_the_current_folder_does_not_take_the_place_of_pythons_own(home: Home) -> None:
    home.write("helping.py", "import colorsys\ndef sun(city): return city")
    home.write("colorsys.py", "raise ValueError('taken')")
    with serve(replying(calling(OSLO), WARM)) as server:
        # As the installed command does: with `-m` and `-c` Python itself puts the current folder first.
        python = [sys.executable, "-c", "import sys; sys.path.remove(''); import flynn.cli; sys.exit(flynn.cli.main())"]
        options = ["--tool", "weather:get_weather", "--endpoint", server.endpoint]
        assert home.run("ask", "Hi", *options, python=python) == (0, "Warm.\n", "looking Oslo\n")


# --- a real server ----------------------------------------------------------------------------------------------------


def test_a_real_model_calls_a_function(home: Home, tool_server: RealServer) -> None:
    home.write("flynn.json", json.dumps({"models": {"local": {"defaults": {"tool_choice": "required"}}}}))
    called = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
    ended = home.run(
        *("ask", f"{called}\nNow Paris.", "--system", f"Question: weather in Oslo?\n{called}"),
        *("--tool", "weather:get_weather", "--config", "flynn.json", "--endpoint", tool_server.endpoint),
        *("--temperature", "0", "--max-tokens", "30", "--stats"),
    )
    assert ended.code == 0
    assert ended.out.strip()
    assert ended.err.startswith("looking ")
    assert "tokens/s" in ended.err
