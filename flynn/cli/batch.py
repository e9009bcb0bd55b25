"""`flynn batch`: many prompts from a file, none lost."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections import deque
from contextlib import contextmanager, nullcontext
from types import FrameType
from typing import Any, BinaryIO, ContextManager, Deque, Iterable, Iterator, List, Optional, Tuple

from ..batch.output import Done, Output
from ..batch.requests import Defaults
from ..batch.results import Result, Tally, encode_result
from ..batch.runner import DEFAULT_TIMEOUT, DEFAULT_WAIT, Run, defaults_of
from ..batch.runner import run as run_requests
from ..batch.sources import Lines, Template, read_jsonl, read_text, read_values, requests
from ..errors import FileError
from ..files import read_text as read_file
from ..files import replace_file
from .exits import DONE, FAILED, INTERRUPTED, UsageError
from .options import Given, Parser, connect, request_options, time_limit
from .terminal import Terminal

EXAMPLES = f"""\
  flynn batch prompts.jsonl -o answers.jsonl
  flynn batch --text questions.txt -o answers.jsonl --system "Be brief." --max-tokens 100
  flynn batch people.csv --template letter.txt -o letters.jsonl
  cat prompts.jsonl | flynn batch - | jq -r .response.body.choices[0].message.content

Lines of INPUT, which is - for standard input:
  {{"custom_id": "a", "url": "/v1/chat/completions", "body": {{"messages": [...]}}}}
  {{"prompt": "Why is the sky blue?", "max_tokens": 20}}
  {{"custom_id": "b", "messages": [{{"role": "user", "content": "Hi"}}]}}
A template is a prompt with places, {{{{name}}}}, for the values of each row.
Results are written as they come, in the form of OpenAI's batch files. To go on
after an interruption of any kind, run the same command again: what has a result
is not asked again, what failed is. Ctrl-C once lets the requests under way end.
Here --timeout is the time for one answer, {DEFAULT_TIMEOUT:.0f} seconds by default."""

_TICK = 0.5  # seconds between two looks whether there is something to show
_SYNC = 5.0  # seconds of work that a power failure may cost
_SAY = 10.0  # seconds between two lines where there is no terminal
_PARTING = 0.2  # seconds for threads to end in
_SHOWN_FAILURES = 3
_DASK_TIMEOUT = 30  # seconds to reach the scheduler


def add_options(parser: Parser) -> None:
    parser.usage = "flynn batch [options] INPUT"
    parser.add_argument("input", metavar="INPUT", help="JSON lines, or what the next two options say")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--text", action="store_true", help="each line is a prompt")
    kinds.add_argument("--template", metavar="FILE", help="prompt for values; INPUT is CSV or JSON lines")
    parser.add_argument("-o", "--output", metavar="OUTPUT", help="results; what failed goes to OUTPUT.errors.jsonl")
    parser.add_argument("--ordered", action="store_true", help="results in the order of INPUT")
    parser.add_argument("--report", metavar="FILE", help="write what was done, as JSON")
    parser.add_argument("--system", metavar="TEXT", help="system prompt of lines that have none")
    parser.add_argument("--json-schema", metavar="FILE", help="JSON schema that answers keep to")
    group = parser.add_argument_group("work")
    jobs = "requests at a time, with --dask tasks (default: the server's free slots)"
    group.add_argument("--jobs", metavar="N", type=int, help=jobs)
    group.add_argument("--max-failures", metavar="N", type=int, help="give up after N failed requests")
    group.add_argument(
        "--wait",
        metavar="SECONDS",
        type=time_limit,
        default=DEFAULT_WAIT,
        help="give up after this long without a server, or none (default: 600)",
    )
    group.add_argument("--dask", metavar="ADDRESS", help="hand the work to a Dask scheduler's workers")
    parser.add_request_options()


def run(given: Given, terminal: Terminal) -> int:
    for option in ("jobs", "max_failures"):
        if getattr(given, option) is not None and getattr(given, option) < 1:
            raise UsageError(f"--{option.replace('_', '-')} is a number above 0")
    with _open(given) as file:
        lines = Lines(file)
        entries, reading = _entries(given, lines)
        options = request_options(given)
        tally = Tally()
        done = Done(keep_order=given.ordered and given.output is not None)
        with connect(given) as client, _output(given, terminal) as output:
            tally.before = output.read(done) if output else 0
            defaults = Defaults(given.system, {**defaults_of(client), **options})
            with _workers(given) as (workers, jobs):
                batch = run_requests(
                    requests(entries, defaults, done, file=given.input, fingerprint=reading),
                    None if workers else client,
                    jobs=jobs,
                    ordered=given.ordered and output is None,
                    timeout=DEFAULT_TIMEOUT if given.timeout is ... else given.timeout,
                    wait=given.wait,
                    max_failures=given.max_failures,
                    executor=workers,
                )
                return _Watch(batch, tally, output, terminal, lines).until_end(given, done)


def _open(given: Given) -> ContextManager[BinaryIO]:
    if given.input == "-":
        try:
            # Not to be closed: the reader may still wait for a pipe, and `close` would wait for the reader.
            return nullcontext(open(0, "rb", closefd=False))
        except OSError as error:
            raise OSError(error.errno, error.strerror, "standard input") from None
    try:
        return open(os.path.expanduser(given.input), "rb")
    except OSError as error:
        raise FileError(error.strerror or str(error), given.input) from None


def _entries(given: Given, lines: Lines) -> Tuple[Iterable[Any], bytes]:
    """What the lines say, and what tells one way to read them from another."""
    if given.text:
        return read_text(lines), b"text"
    if given.template is None:
        return read_jsonl(lines), b""
    from hashlib import blake2b

    text = read_file(given.template).replace("\r\n", "\n")
    return map(Template(text).entry, read_values(lines)), blake2b(text.encode(), digest_size=16).digest()


def _output(given: Given, terminal: Terminal) -> ContextManager[Optional[Output]]:
    """The output of what is done; None where results go to standard output."""
    if given.output is None:
        return nullcontext()
    path = os.path.expanduser(given.output)
    if os.path.exists(path) and given.input != "-" and os.path.samefile(path, os.path.expanduser(given.input)):
        raise UsageError(f"{path}: INPUT and OUTPUT are the same file")
    output = Output(path)
    if output.mended:
        terminal.say(f"{path}: cut off {output.mended} bytes of a line that was not finished")
    return output


@contextmanager
def _workers(given: Given) -> Iterator[Tuple[Any, Optional[int]]]:
    """The executor, None for threads, and how many jobs it shall have at a time."""
    if given.dask is None:
        yield None, given.jobs
        return
    try:
        from distributed import Client  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        raise UsageError("--dask needs the package distributed: pip install 'flynn-llama[dask]'") from None
    try:
        client = Client(given.dask, timeout=_DASK_TIMEOUT, set_as_default=False)
    except (OSError, ValueError) as error:
        raise UsageError(f"no Dask scheduler at {given.dask}: {error}") from None
    with client, client.get_executor(pure=False, retries=0) as workers:
        yield workers, given.jobs or 2 * max(1, sum(client.nthreads().values()))


class _Watch:
    """A batch under way, shown and written down."""

    def __init__(self, batch: Run, tally: Tally, output: Optional[Output], terminal: Terminal, lines: Lines) -> None:
        self._batch, self._tally, self._output, self._terminal, self._lines = batch, tally, output, terminal, lines
        self._interrupted = False
        self._shown_at = time.monotonic()
        self._queue = False
        self._failures: Deque[str] = deque()
        self._size: Optional[int] = None  # of the input, in bytes

    def until_end(self, given: Given, done: Done) -> int:
        """Write all results. Returns the exit code."""
        before = signal.getsignal(signal.SIGINT)
        if before is signal.default_int_handler:  # not where nohup or a shell has it ignored
            signal.signal(signal.SIGINT, self._interrupt)
        path = os.path.expanduser(given.input)
        self._size = os.path.getsize(path) if os.path.isfile(path) else None
        parts: Iterable[List[Result]] = iter(lambda: self._batch.poll(_TICK), None)
        if self._output:
            self._batch.into(self._take)
        elif given.ordered:
            parts = ([result] for result in self._batch)
        try:
            try:
                for results in parts:
                    self._take(results)
                    self._show()
                    if self._output:
                        self._output.sync(after=_SYNC)
            finally:
                self._batch.close()
                self._show()
                self._end(given)
                _join_threads()
            if self._interrupted:
                return INTERRUPTED
            if self._output and done.order:
                self._output.sort(done.order)
            if done.left:
                what = f"{done.left} results are of requests that {given.input} does not have"
                self._terminal.say(f"{given.output}: {what}")
            return FAILED if self._tally.failed else DONE
        finally:
            signal.signal(signal.SIGINT, before)

    def _interrupt(self, number: int, frame: Optional[FrameType]) -> None:
        if self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = True
        threading.Thread(target=self._drain).start()  # this one may hold the lock that it takes

    def _drain(self) -> None:
        self._batch.drain()
        self._terminal.say(f"Finishing the {self._batch.in_flight} under way; Ctrl-C again stops them.")

    def _take(self, results: List[Result]) -> None:
        if self._output:
            self._output.write(results)
        for result in results:
            if not self._output:
                self._print(encode_result(result).decode())
            self._tally.add(result)
            if result.error is not None and self._tally.failed <= _SHOWN_FAILURES:
                self._failures.append(f"{result.custom_id or f'line {result.number}'}: {result.error}")

    def _print(self, line: str) -> None:
        if line.isascii() or (getattr(sys.stdout, "encoding", None) or "").lower() == "utf-8":
            self._terminal.write(line)
        else:
            self._terminal.write_json(json.loads(line))

    def _show(self) -> None:
        while self._failures:
            self._terminal.say(self._failures.popleft())
        now = time.monotonic()
        away = self._batch.away > 1
        if away and not self._queue:
            self._terminal.say("There is no server; waiting for it.")
        self._queue = away
        if now < self._shown_at + (_TICK if self._terminal.err_is_terminal else _SAY):
            return
        self._shown_at = now
        read = self._lines.read
        line = self._tally.line(self._lines.count * self._size / read if self._size and read else None)
        if self._terminal.err_is_terminal:
            self._terminal.progress(line)
        else:
            self._terminal.say(line)

    def _end(self, given: Given) -> None:
        errors = f" (see {self._output.errors_path})" if self._output and self._tally.failed else ""
        self._terminal.say(self._tally.summary() + errors)
        if given.report is not None:
            replace_file(os.path.expanduser(given.report), json.dumps(self._tally.report(), indent=2) + "\n")


def _join_threads() -> None:
    """Wait for the threads that were told to end, but not long: one may wait for a pipe.

    CPython 3.13.0 crashes where memory is short and one wakes while the interpreter ends (take_gil in ceval_gil.c).
    """
    end = time.monotonic() + _PARTING
    for thread in threading.enumerate():
        if thread.name.startswith("flynn-"):
            thread.join(max(0.0, end - time.monotonic()))
