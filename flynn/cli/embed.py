"""`flynn embed`: texts as vectors."""

from __future__ import annotations

import sys
from itertools import islice
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from ..errors import AuthenticationError, ModelLoadingError, NotSupportedError, ServerError
from ..files import named, read_text
from ..models.local.llamacpp import LlamaCppClient
from .exits import DONE, UsageError
from .options import Given, Parser, connect
from .terminal import Terminal

Source = Tuple[str, Dict[str, Any], str]  # where a text comes from, in words and for the JSON, and the text

EXAMPLES = """\
  flynn embed "The sky is blue." "Grass is green."
  flynn embed --file report.txt --json | jq .embedding[0]
  flynn embed < sentences.txt > vectors.jsonl

Each text becomes one line: a list of numbers, or with --json an object. Without TEXT
and --file each line of standard input is a text; they are sent 32 at a time.
Start the server with --embeddings."""

_AT_ONCE = 32  # texts in a request


def add_options(parser: Parser) -> None:
    parser.usage = "flynn embed [options] [TEXT ...]"
    parser.add_argument("words", nargs="*", metavar="TEXT", help="texts")
    text = "file whose content is a text (repeatable)"
    parser.add_argument("--file", metavar="FILE", action="append", default=[], help=text)
    parser.add_argument("--model", metavar="TEXT", help="model to ask, where a server has several")
    text = 'print {"embedding": [...]} with "text", "file" or "line" beside it'
    parser.add_argument("--json", action="store_true", help=text)


def run(given: Given, terminal: Terminal) -> int:
    sources = _sources(given)
    with connect(given) as client:
        while batch := list(islice(sources, _AT_ONCE)):
            for (_, about, _), vector in zip(batch, _embed(client, batch, given.model)):
                # Nine digits determine a 32-bit float.
                numbers = [float(f"{number:.9g}") for number in vector]
                terminal.write_json({**about, "embedding": numbers} if given.json else numbers)
    return DONE


def _sources(given: Given) -> Iterator[Source]:
    for number, text in enumerate(given.words, 1):
        yield f"text {number}", {"text": text}, text
    for path in given.file:
        yield path, {"file": path}, read_text(path)
    if given.words or given.file:
        return
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("no text: give it as arguments, with --file or on standard input")
    with named("standard input"):
        for number, line in enumerate(sys.stdin, 1):
            text = line.rstrip("\r\n")
            yield f"line {number}", {"line": number, "text": text}, text


def _embed(client: LlamaCppClient, batch: Sequence[Source], model: Optional[str]) -> Iterator[List[float]]:
    try:
        yield from client.embed([text for _, _, text in batch], model=model)
    except (AuthenticationError, ModelLoadingError, NotSupportedError):
        raise
    except ServerError as error:
        if len(batch) == 1:
            error.args = (f"{batch[0][0]}: {error}",)
            raise
        # The server does not say which text it refuses.
        for source in batch:
            yield from _embed(client, [source], model)
