"""Many requests, none lost, at the server's full speed: `run`, and behind the command, `flynn batch`.

    requests   what is asked: lines, mappings and prompts as requests         no I/O
    results    what came of it, and the lines that tell it                    no I/O
    sources    a file of requests, prompts or values, as requests
    window     the order in which requests are sent                           no I/O
    waiting    those that wait for it, and those that are tried again         no I/O
    outage     while there is no server                                       no I/O
    work       how many are under way, and when the run is over               no I/O
    threads    who does it: a thread for each request that is under way
    executors  who does it: any executor, be it one of `dask`
    runner     all of it together: `run`
    record     the output, which is also the record of what is done
    ids        a few bytes for each of a million IDs
    tally      how it goes, in figures                                        no I/O
"""

from __future__ import annotations

from .requests import Defaults as Defaults
from .requests import Request as Request
from .results import Result as Result
from .runner import Run as Run
from .runner import run as run
