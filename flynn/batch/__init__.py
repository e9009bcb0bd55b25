"""Many requests, none lost, at the server's full speed: `run`, and behind the command, `flynn batch`.

requests   what is asked                                no I/O
results    what came of it                              no I/O
waiting    in which order it is sent, and when again    no I/O
work       how many are under way, and until when       no I/O
workers    who does it: threads, or an executor
runner     all of it together: `run`
sources    the input of the command
record     its output, from which it goes on
"""

from __future__ import annotations

from .requests import Defaults as Defaults
from .requests import Request as Request
from .results import Result as Result
from .runner import Run as Run
from .runner import run as run
