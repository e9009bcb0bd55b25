"""Many requests, none lost, at the server's full speed: `run`, and behind the command, `flynn batch`.

    requests   what is asked: lines, mappings and prompts as requests         no I/O
    results    what came of it, and the lines that tell it                    no I/O
    sources    a file of requests, prompts or values, as requests
    window     the order in which requests are sent                           no I/O
    work       what is left to do, how many at a time, what is tried again    no I/O
    runner     the threads, or the executor, that do it: `run`
    record     the output, which is also the record of what is done
    ids        a number for each of a million IDs
"""

from __future__ import annotations

from .requests import Defaults as Defaults
from .requests import Request as Request
from .results import Result as Result
from .runner import Run as Run
from .runner import run as run
