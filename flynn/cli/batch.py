"""`flynn batch`: many prompts from a file, none lost."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
import time
from contextlib import ExitStack, closing, contextmanager
from hashlib import blake2b
from itertools import chain, islice
from types import FrameType
from typing import Any, BinaryIO, Dict, Iterator, Optional, Sequence, Tuple

from ..batch.input import Done, Entry, Lines, read_jsonl, read_template, read_text, requests
from ..batch.output import Record, errors_path
from ..batch.requests import Defaults
from ..batch.results import Result, Tally, encode_result
from ..batch.runner import DEFAULT_RETRIES, DEFAULT_TIMEOUT, DEFAULT_WAIT, Run, defaults_of
from ..batch.runner import run as run_requests
from ..errors import FileError
from ..files import identity, named, read_json, replace_file
from ..files import read_text as read_file
from .exits import DONE, FAILED, INTERRUPTED, UsageError
from .options import Given, Parser, connect, request_options, time_limit
from .terminal import Terminal

EXAMPLES = """\
  flynn batch prompts.jsonl -o answers.jsonl
  flynn batch --text questions.txt -o answers.jsonl --system "Be brief." --max-tokens 100
  flynn batch people.csv --template letter.txt -o letters.jsonl
  cat prompts.jsonl | flynn batch - | jq -r .response.body.choices[0].message.content
  flynn batch answers.jsonl.errors.jsonl -o answers.jsonl

Lines of INPUT, which is - for standard input:
  {"custom_id": "a", "url": "/v1/chat/completions", "body": {"messages": [...]}}
  {"prompt": "Why is the sky blue?", "max_tokens": 20}
  {"custom_id": "b", "messages": [{"role": "user", "content": "Hi"}]}
A template is a prompt with places, {{name}}, for the values of each row.
Results are written as they come, in the form of OpenAI's batch files. To go on
after an interruption of any kind, run the same command again: what has a result
is not asked again, what failed is. An errors file as INPUT asks only for what
failed. Ctrl-C once lets the requests under way end."""

_POLL_INTERVAL = 0.5  # seconds to wait for results in one go, and between two updates of the progress on a terminal
_SYNC_INTERVAL = 5.0  # seconds of work that a power failure may cost
_LINE_INTERVAL = 10.0  # seconds between two lines of progress where there is no terminal
_JOIN_TIMEOUT = 0.2  # seconds to wait for the threads at the end
_SHOWN_FAILURES = 3
_DASK_TIMEOUT = 30  # seconds to reach the scheduler
_NOT_ASCII = re.compile("[^\x00-\x7f]+")


def add_options(parser: Parser) -> None:
    parser.usage = "flynn batch [options] INPUT"
    parser.timeout_help = f"longest time for one answer, or none (default: {DEFAULT_TIMEOUT:.0f})"
    parser.add_argument("input", metavar="INPUT", help="JSON lines, or what the next two options say")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--text", action="store_true", help="each line is a prompt")
    kinds.add_argument("--template", metavar="FILE", help="prompt for values; INPUT is CSV or JSON lines")
    parser.add_argument("-o", "--output", metavar="OUTPUT", help="results; failures go to OUTPUT.errors.jsonl")
    parser.add_argument("--ordered", action="store_true", help="results in the order of INPUT")
    parser.add_argument("--report", metavar="FILE", help="write what was done, as JSON")
    parser.add_argument("--system", metavar="TEXT", help="system prompt of lines that have none")
    parser.add_argument("--json-schema", metavar="FILE", help="JSON schema that answers have to fit")
    group = parser.add_argument_group("work")
    jobs = "requests at a time (default: the server's free slots; with --dask two for each thread)"
    group.add_argument("--jobs", metavar="N", type=int, help=jobs)
    retries = f"ask again up to N times for an answer that does not fit (default: {DEFAULT_RETRIES})"
    group.add_argument("--retries", metavar="N", type=int, default=DEFAULT_RETRIES, help=retries)
    group.add_argument("--max-failures", metavar="N", type=int, help="give up after N failed requests")
    wait = f"give up after this long without any answer, or none (default: {DEFAULT_WAIT:.0f})"
    group.add_argument("--wait", metavar="SECONDS", type=time_limit, default=DEFAULT_WAIT, help=wait)
    group.add_argument("--dask", metavar="ADDRESS", help="hand the work to a Dask scheduler's workers")
    parser.add_request_options()


def run(given: Given, terminal: Terminal) -> int:
    for option, least in (("jobs", 1), ("max_failures", 1), ("retries", 0)):
        if getattr(given, option) is not None and getattr(given, option) < least:
            raise UsageError(f"--{option.replace('_', '-')} must be a number, {least} or more")
    for option in ("input", "output", "report", "template", "json_schema", "config", "auth_token_file"):
        if getattr(given, option) is not None:
            setattr(given, option, os.path.expanduser(getattr(given, option)))
    options = request_options(given)
    file = _open(given.input)
    is_retry = _check_files(given, file)
    lines = Lines(file, given.input)
    entries, fingerprint = _entries(given, lines)
    done = Done()
    with ExitStack() as stack:
        client = stack.enter_context(connect(given))
        workers, jobs = stack.enter_context(_workers(given))
        record = None
        if given.output is not None:
            record = stack.enter_context(closing(Record(given.output, done)))
            if cut := record.begin():
                terminal.say(f"{given.output}: cut off {cut} bytes of lines that were not finished")
            if is_retry:  # not what this run adds
                lines.size = record.errors_began
        defaults = Defaults(given.system, {**defaults_of(client), **options})
        batch = run_requests(
            requests(entries, defaults, done, given.input, fingerprint),
            None if workers else client,
            jobs=jobs,
            ordered=given.ordered and record is None,
            timeout=DEFAULT_TIMEOUT if given.timeout is ... else given.timeout,
            wait=given.wait,
            max_failures=given.max_failures,
            retries=given.retries,
            executor=workers,
        )
        code = _Watch(given, terminal, batch, record, lines, done).until_end()
        if record is not None and code in (DONE, FAILED):
            record.finish(done, ordered=given.ordered and not is_retry)
            if done.left and not is_retry:
                terminal.say(f"{given.output}: {done.left} results are of requests that {given.input} does not have")
        return code


def _open(path: str) -> BinaryIO:
    """Open the input, which is never closed: a thread may be blocked on a pipe, and `close` would wait for it."""
    if path == "-":
        with named("standard input"):
            return open(0, "rb", closefd=False)
    try:
        return open(os.open(path, os.O_RDONLY), "rb", closefd=False)
    except OSError as error:
        raise FileError(error.strerror or str(error), path) from None


def _check_files(given: Given, file: BinaryIO) -> bool:
    """Refuse to write a file that is read, or written for another purpose. Returns whether INPUT is the errors file."""
    reads = {
        "INPUT": file.fileno(),
        "--template": given.template,
        "--json-schema": given.json_schema,
        "--config": given.config,
        "--auth-token-file": given.auth_token_file,
    }
    # A stream that was closed when Python started is None, and its number may be that of a file opened since.
    writes = {"--report": given.report, "standard error": sys.stderr and 2}
    if given.output is None:
        writes["standard output"] = sys.stdout and 1
    else:
        writes.update({"OUTPUT": given.output, "the errors file": errors_path(given.output)})
    names: Dict[object, str] = {}
    is_retry = False
    for name, path in {**reads, **writes}.items():
        place = None if path is None else identity(path)
        if place is None:
            continue
        other = names.setdefault(place, name)
        if (other, name) == ("INPUT", "the errors file"):
            is_retry = True
        elif other != name and name in writes and (other, name) != ("standard error", "standard output"):
            raise UsageError(f"{other} and {name} are the same file: {path if isinstance(path, str) else given.input}")
    if given.report is not None and os.path.isfile(given.report) and os.path.getsize(given.report):
        report = read_json(given.report)
        if not isinstance(report, dict) or "done_before" not in report:
            raise FileError("not a report of flynn batch; give another file", given.report)
    return is_retry


def _entries(given: Given, lines: Lines) -> Tuple[Iterator[Entry], bytes]:
    """Return the entries of the input, the first one read already, and a fingerprint of the way they are read."""
    if given.text:
        entries, fingerprint = read_text(lines), b"text"
    elif given.template is None:
        entries, fingerprint = read_jsonl(lines), b""
    else:
        text = read_file(given.template).replace("\r\n", "\n")
        entries, fingerprint = read_template(lines, text), blake2b(text.encode(), digest_size=16).digest()
    return chain(list(islice(entries, 1)), entries), fingerprint


@contextmanager
def _workers(given: Given) -> Iterator[Tuple[Any, Optional[int]]]:
    """The executor, None for threads, and how many jobs it has at a time."""
    if given.dask is None:
        yield None, given.jobs
        return
    try:
        from distributed import Client  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        raise UsageError("--dask needs a package that is not installed: pip install distributed") from None
    try:
        client = Client(given.dask, timeout=_DASK_TIMEOUT, set_as_default=False)
    except (OSError, ValueError) as error:
        raise UsageError(f"no Dask scheduler at {given.dask}: {error}") from None
    with client, client.get_executor(pure=False, retries=0) as workers:
        yield workers, given.jobs or 2 * max(1, sum(client.nthreads().values()))


class _Watch:
    """Writes the results of a batch to its record, or to standard output without one, and shows the progress."""

    def __init__(
        self, given: Given, terminal: Terminal, batch: Run, record: Optional[Record], lines: Lines, done: Done
    ) -> None:
        self._given, self._terminal, self._batch = given, terminal, batch
        self._record, self._lines, self._done = record, lines, done
        self._tally = Tally(done_before=record.before if record else 0)
        self._interrupts = 0
        self._shown_at = time.monotonic()
        self._was_away = False
        self._size = os.path.getsize(given.input) if os.path.isfile(given.input) else None
        self._is_utf8 = (getattr(sys.stdout, "encoding", None) or "").lower() in ("utf-8", "utf8")

    def until_end(self) -> int:
        """Write all results. Returns the exit code."""
        before = signal.getsignal(signal.SIGINT)
        if before is signal.default_int_handler:  # not where nohup or a shell has it ignored
            signal.signal(signal.SIGINT, self._interrupt)
        is_draining = False
        try:
            while (results := self._batch.poll(_POLL_INTERVAL)) is not None:
                self._write(results)
                self._show_progress()
                if self._record:
                    self._record.sync(after=_SYNC_INTERVAL)
                if self._interrupts and not is_draining:
                    is_draining = True
                    self._batch.drain()
                    self._terminal.say(f"Finishing the {self._batch.in_flight} under way; Ctrl-C again stops them.")
        finally:
            self._batch.close()
            self._report()
            _join_threads()
            signal.signal(signal.SIGINT, before)
        if self._interrupts:
            return INTERRUPTED
        return FAILED if self._tally.failed else DONE

    def _interrupt(self, number: int, frame: Optional[FrameType]) -> None:
        self._interrupts += 1
        if self._interrupts > 1:
            raise KeyboardInterrupt

    def _write(self, results: Sequence[Result]) -> None:
        if self._record:
            self._record.write(results)
        for result in results:
            if not self._record:
                line = encode_result(result).decode("utf-8", "replace")
                # JSON has characters beyond ASCII only in strings, where an escape means the same.
                if not self._is_utf8:
                    line = _NOT_ASCII.sub(lambda match: json.dumps(match[0])[1:-1], line)
                self._terminal.write(line)
            self._tally.add(result)
            if result.error is not None and self._tally.failed <= _SHOWN_FAILURES:
                place = result.custom_id if result.request else f"{self._given.input}:{result.number}"
                self._terminal.say(f"{place}: {result.error}")

    def _show_progress(self) -> None:
        """Show the progress once an interval, and at once that the server has stopped answering."""
        is_away = self._batch.away > 1
        if is_away and not self._was_away:
            self._terminal.say(f"No answer, waiting for the server: {self._batch.trouble}")
        self._was_away = is_away
        now = time.monotonic()
        if now >= self._shown_at + (_POLL_INTERVAL if self._terminal.err_is_terminal else _LINE_INTERVAL):
            self._shown_at = now
            show = self._terminal.progress if self._terminal.err_is_terminal else self._terminal.say
            show(self._tally.line(self._left()))

    def _left(self) -> Optional[float]:
        """Estimate how many requests are left, from the bytes that are not read yet. None if the input has no size."""
        if not self._size or not self._lines.read:
            return None
        met, not_met = len(self._done.order), self._done.left
        unread = (self._size - self._lines.read) * met / self._lines.read
        asked = met - (self._tally.done_before - not_met) + max(0.0, unread - not_met)
        return max(0.0, asked - self._tally.done - self._tally.failed)

    def _report(self) -> None:
        failed = self._given.output is not None and self._tally.failed
        errors = f" (see {errors_path(self._given.output)})" if failed else ""
        self._terminal.say(self._tally.summary() + errors)
        if self._given.report is not None:
            replace_file(self._given.report, json.dumps(self._tally.report(), indent=2) + "\n")


def _join_threads() -> None:
    """Wait for the threads that are ending, but not long: one may be blocked on a pipe.

    CPython 3.13.0 crashes where memory is short and one wakes while the interpreter ends (take_gil in ceval_gil.c).
    """
    end = time.monotonic() + _JOIN_TIMEOUT
    for thread in threading.enumerate():
        if thread.name.startswith("flynn-") and thread.is_alive():  # a signal may come while one is being started
            thread.join(max(0.0, end - time.monotonic()))
