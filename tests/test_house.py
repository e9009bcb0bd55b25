"""Rules for the whole repository: sizes, one-way imports, examples that run, no traces of one machine, Windows."""

from __future__ import annotations

import ast
import dataclasses
import doctest
import importlib
import pkgutil
import re
import subprocess
import sys
import time
import typing
from pathlib import Path
from typing import Annotated, Dict, Iterator, List, Set, Tuple, Union

import pytest
from answers import always, by_route, events, reply
from environment import ROOT
from pytest_httpserver import HTTPServer
from real_server import RealServer
from scripted import CHAT, delta

import flynn
from flynn import Limits, LlamaCppClient
from flynn.cli import COMMANDS
from flynn.conversation import summarise
from flynn.structured.annotations import node_of

SOURCES = [path for folder in ("flynn", "scripts") for path in sorted((ROOT / folder).rglob("*.py"))]
TESTS = sorted((ROOT / "tests").rglob("*.py"))
TEXTS = [
    path
    for path in [*ROOT.glob("*"), *(ROOT / ".ci").glob("*"), *SOURCES, *TESTS, *ROOT.glob("[a-z]*/**/*.md")]
    if path.is_file() and path.name != ".git" and ".venv" not in path.parts and not path.name.startswith(".coverage")
]
FILE_LINES = 400
FUNCTION_LINES = 50  # without the docstring

# Tests that name a private attribute or patch a module, with the reason.
EXCEPTED = {
    "tests/service/test_download.py",  # a disk that fills up only after the check for room
    "tests/test_cli_completion.py",  # argparse lists its options nowhere else
}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


# --- sizes ------------------------------------------------------------------------------------------------------------


def test_files_are_shorter_than_400_lines() -> None:
    lengths = {name_of(path): path.read_text(encoding="utf-8").count("\n") for path in SOURCES}
    assert {name: lines for name, lines in lengths.items() if lines >= FILE_LINES} == {}


def test_functions_are_shorter_than_50_lines() -> None:
    functions = {
        f"{name_of(path)}:{node.lineno} {node.name}": lines_of_code(node)
        for path in SOURCES
        for node in ast.walk(tree(path))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }
    assert {name: lines for name, lines in functions.items() if lines >= FUNCTION_LINES} == {}


def lines_of_code(function: Union[ast.FunctionDef, ast.AsyncFunctionDef]) -> int:
    last, first = function.end_lineno or 0, function.body[0]
    documented = ast.get_docstring(function, clean=False) is not None
    return last - function.lineno + 1 - (documented and (first.end_lineno or 0) - first.lineno + 1)


# --- imports ----------------------------------------------------------------------------------------------------------


def imports() -> Dict[str, Set[str]]:
    """Map each module of flynn to those that it imports, also for annotations and inside functions."""
    paths = {module_of(path): path for path in SOURCES if path.is_relative_to(ROOT / "flynn")}
    return {
        name: {real(imported, set(paths)) for imported in imported_by(name, path)} - {name, ""}
        for name, path in paths.items()
        if name not in ("flynn", "flynn.__main__")  # the map of public names, and what starts the command
    }


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).replace(".__init__", "")


def imported_by(name: str, path: Path) -> Iterator[str]:
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] if node.level else ""
            module = ".".join(filter(None, [base, node.module]))
            yield from (f"{module}.{alias.name}" for alias in node.names)


def real(name: str, modules: Set[str]) -> str:
    """Return the module that `name`, a module or a name in one, belongs to; "" if it is not one of flynn's."""
    while name not in modules:
        name = name.rpartition(".")[0]
        if not name:
            return ""
    return name


def test_no_imports_go_in_a_circle() -> None:
    graph = imports()
    assert sum(map(len, graph.values())) > 100
    while True:
        leaves = {name for name, wanted in graph.items() if not wanted & set(graph)}
        if not leaves:
            break
        graph = {name: wanted for name, wanted in graph.items() if name not in leaves}
    assert {name: sorted(wanted & set(graph)) for name, wanted in graph.items()} == {}


# --- tests ------------------------------------------------------------------------------------------------------------


def named_in(path: Path) -> Iterator[str]:
    """Yield private attributes of other objects, and names patched in our modules, as `line: name`."""
    ours = {"flynn", "installer", *(Path(each.name).stem for each in (ROOT / "scripts").glob("*.py"))}
    modules: Set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in ours:
            modules.update(alias.asname or alias.name for alias in node.names)
        if isinstance(node, ast.Attribute) and re.match("_[a-z]", node.attr):
            owner = ast.unparse(node.value)
            if owner not in ("self", "cls", "os", "sys", "super()") and node.attr not in ("_replace", "_asdict"):
                yield f"{node.lineno}: {owner}.{node.attr}"
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".setattr") and len(node.args) == 3:
            owner = ast.unparse(node.args[0])
            if owner.partition(".")[0] in modules:
                yield f"{node.lineno}: {owner}.{ast.unparse(node.args[1])}"


def test_tests_use_only_public_names() -> None:
    found = {name_of(path): list(named_in(path)) for path in TESTS}
    assert {name: names for name, names in found.items() if names and name not in EXCEPTED} == {}
    assert {name for name in EXCEPTED if not found[name]} == set(), "these can leave EXCEPTED"


# --- examples ---------------------------------------------------------------------------------------------------------

# They need a router, a model for reranking, one for code: tests/test_router_mode.py and tests/test_real_routes.py.
OTHER_SERVERS = {"model_events", "rerank", "infill"}


class AnyOutput(doctest.OutputChecker):
    """Accept any output of a model; an example still fails by an exception."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        return True


def examples(*, with_server: bool) -> List[doctest.DocTest]:
    finder = doctest.DocTestFinder(exclude_empty=True)
    names = [module.name for module in pkgutil.walk_packages(flynn.__path__, "flynn.")]
    modules = [importlib.import_module(name) for name in names if name != "flynn.__main__"]
    found = [test for module in modules for test in finder.find(module) if test.examples]
    return [test for test in found if test.name.rpartition(".")[2] not in OTHER_SERVERS and asks(test) == with_server]


def asks(test: doctest.DocTest) -> bool:
    return any(re.search(r"^(?!async def).*\bclient\b", example.source) for example in test.examples)


def run(test: doctest.DocTest, checker: doctest.OutputChecker, **names: object) -> None:
    public = {name: getattr(flynn, name) for name in flynn.__all__}
    types = {name: getattr(typing, name) for name in typing.__all__}
    test.globs = {**types, **public, "node_of": node_of, **test.globs, **names}
    written: List[str] = []
    runner = doctest.DocTestRunner(checker, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert runner.run(test, out=written.append).failed == 0, "".join(written)


@pytest.mark.parametrize("example", examples(with_server=False), ids=lambda example: str(example.name))
def test_an_example_in_a_docstring_shows_its_real_output(example: doctest.DocTest) -> None:
    run(example, doctest.OutputChecker())


@dataclasses.dataclass
class Person:
    name: Annotated[str, Limits(maxLength=10)]
    age: Annotated[int, Limits(minimum=0, maximum=120)]


@dataclasses.dataclass
class City:
    name: Annotated[str, Limits(maxLength=10)]
    population: int


def get_weather(city: str) -> str:
    """Tell the weather in a city."""
    return f"2 °C in {city}"


@pytest.fixture(scope="module")
def embedding_server(server_at_hand: None) -> Iterator[RealServer]:
    with RealServer(embeddings=True, pooling="none") as server:
        yield server


@pytest.fixture(scope="module")
def mean_server(server_at_hand: None) -> Iterator[RealServer]:
    with RealServer(embeddings=True, pooling="mean") as server:
        yield server


@pytest.mark.parametrize("example", examples(with_server=True), ids=lambda example: str(example.name))
def test_an_example_in_a_docstring_runs_with_a_server(example: doctest.DocTest, request: pytest.FixtureRequest) -> None:
    kind = example.name.rpartition(".")[2]
    fixtures = {"embed_tokens": "embedding_server", "embed": "mean_server", "metrics": "real_server"}
    server: RealServer = request.getfixturevalue(fixtures.get(kind, "tool_server"))
    for step in example.examples:
        step.options.pop(doctest.SKIP, None)
        step.source = step.source.replace("http://localhost:8080", server.endpoint)
    with LlamaCppClient(server.endpoint, defaults={"max_tokens": 100, "temperature": 0}) as client:
        tools = {"Person": Person, "City": City, "get_weather": get_weather, "summarise": summarise}
        modules = {"time": time, "limit": 0.0, "dataclass": dataclasses.dataclass}
        run(example, AnyOutput(), client=client, **tools, **modules)


# --- names and paths --------------------------------------------------------------------------------------------------


def found_in_texts(pattern: str) -> Dict[str, List[str]]:
    texts = {name_of(path): path.read_text(encoding="utf-8", errors="replace") for path in TEXTS}
    found = {name: re.findall(pattern, text) for name, text in texts.items()}
    return {name: matches for name, matches in found.items() if matches}


def test_no_file_names_a_path_of_the_machine_it_was_written_on() -> None:
    places = ["/" + "root/", "/" + "work/", "file:///" + "opt/", "pypi" + "-more", "/usr/local/" + "lib/python"]
    assert found_in_texts(rf"(?<![\w$@/'}}])(?:{'|'.join(map(re.escape, places))})\S*") == {}


def test_pip_commands_name_our_package() -> None:
    assert found_in_texts(r"pip install ['\"]?(flynn(?!-llama\b)[\w.-]*)") == {}


# --- Windows ----------------------------------------------------------------------------------------------------------

# What Python lacks there. Run on this system before the program, so that Flynn meets neither the modules nor the names.
AS_ON_WINDOWS = """
import select, signal, socket, sys
class Refusal:
    def find_spec(self, name, path=None, target=None):
        if name in ("fcntl", "termios", "readline", "resource", "pwd", "grp"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
for name in ("fcntl", "termios", "readline", "resource", "pwd", "grp"):
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Refusal())
del socket.AF_UNIX, signal.SIGHUP, select.poll
"""


def as_on_windows(program: str, *arguments: str) -> Tuple[int, str, str]:
    command = [sys.executable, "-c", AS_ON_WINDOWS + program, *arguments]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)
    return ended.returncode, ended.stdout, ended.stderr


def test_without_posix_the_library_chats(httpserver: HTTPServer, endpoint: str) -> None:
    always(httpserver, reply(CHAT))
    program = "import flynn; print(flynn.LlamaCppClient(sys.argv[1]).chat('Hi').content)"
    assert as_on_windows(program, endpoint) == (0, "Hello!\n", "")


def test_without_posix_flynn_ask_answers(httpserver: HTTPServer, endpoint: str) -> None:
    by_route(httpserver, {"POST /v1/chat/completions": events(delta("Hello"))})
    program = "from flynn.cli import main; sys.exit(main())"
    assert as_on_windows(program, "ask", "Hi", "--endpoint", endpoint) == (0, "Hello\n", "")


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_without_posix_every_command_shows_its_help(command: str) -> None:
    program = "from flynn.cli import main; sys.exit(main())"
    code, output, errors = as_on_windows(program, command, "--help")
    assert (code, output.startswith(f"usage: flynn {command}"), errors) == (0, True, "")


def test_without_posix_flynn_chat_answers(httpserver: HTTPServer, endpoint: str) -> None:
    by_route(httpserver, {"POST /v1/chat/completions": events(delta("Hello"))})
    program = "import io; sys.stdin = io.StringIO('Hi\\n'); from flynn.cli import main; sys.exit(main())"
    code, output, errors = as_on_windows(program, "chat", "--endpoint", endpoint)
    assert (code, output, errors) == (0, "Hello\n", "")


def test_without_posix_a_batch_to_a_file_is_a_one_line_error(tmp_path: Path) -> None:
    prompts = tmp_path / "in.jsonl"
    prompts.write_text('{"prompt": "Hi"}\n')
    program = "from flynn.cli import main; sys.exit(main())"
    code, output, errors = as_on_windows(program, "batch", str(prompts), "-o", str(tmp_path / "out.jsonl"))
    assert (code, output) == (1, "")
    assert errors == "flynn: an output file needs POSIX locks, which this system lacks: leave out -o\n"


def test_without_posix_a_batch_writes_to_standard_output(tmp_path: Path, httpserver: HTTPServer, endpoint: str) -> None:
    always(httpserver, reply(CHAT))
    prompts = tmp_path / "in.jsonl"
    prompts.write_text('{"prompt": "Hi"}\n')
    program = "from flynn.cli import main; sys.exit(main())"
    code, output, _ = as_on_windows(program, "batch", str(prompts), "--jobs", "1", "--endpoint", endpoint)
    assert (code, output.count("Hello!")) == (0, 1)


def test_without_unix_sockets_their_endpoint_is_a_one_line_error() -> None:
    program = "from flynn.cli import main; sys.exit(main())"
    code, _, errors = as_on_windows(program, "ask", "Hi", "--endpoint", "unix:///a")
    assert (code, len(errors.splitlines())) == (2, 1)
