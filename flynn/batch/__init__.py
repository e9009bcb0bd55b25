"""Many requests, none lost, at the server's full speed: `run`, and behind the command, `flynn batch`.

    requests   requests, and their lines                                      no I/O
    schema     whether an answer fits a JSON schema                           no I/O
    results    results, their lines in OpenAI's form, and running totals      no I/O
    queue      in which order requests are sent                               no I/O
    scheduler  how many are under way, which are tried again, and until when  no I/O
    workers    threads that send them, to a server or through an executor
    runner     all of it together: `run`

and for the command:

    input      the file of requests, and which of them are still to be sent
    output     the files of results and failures, each a `line_file`
"""

from __future__ import annotations

from .requests import Defaults as Defaults
from .requests import Request as Request
from .results import Result as Result
from .runner import Run as Run
from .runner import run as run
