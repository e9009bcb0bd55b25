"""Answer a question with a function that the model calls. Needs a model with a chat template for tools.

python3 scripts/examples/tool.py "QUESTION" [ENDPOINT]        # or FLYNN_ENDPOINT=http://localhost:8080
"""

import os
import sys
from datetime import date

from flynn import FlynnError, LlamaCppClient


def days_between(start: date, end: date) -> int:
    """Count the days from one date to another.

    Args:
        start: the first date, such as 2026-01-31
        end: the second date
    """
    return (end - start).days


def main() -> int:
    question, *endpoint = sys.argv[1:] or ["How many days are there from 2026-01-31 to 2026-03-01?"]
    client = LlamaCppClient(*endpoint or [os.environ.get("FLYNN_ENDPOINT", "http://localhost:8080")])
    run = client.run_tools(question, [days_between], tool_choice="required", temperature=0, max_tokens=100)
    try:
        for step in run:
            if step.type == "tool_result":
                print(f"[{step.call.name} {step.call.arguments}: {step.content}]", file=sys.stderr)
        print(run.answer().content)
    except FlynnError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
