"""Extract facts from each text file in a folder. Prints one JSON object per file.

python3 scripts/examples/extract.py FOLDER [ENDPOINT]         # or FLYNN_ENDPOINT=http://localhost:8080
"""

import json
import os
import sys
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Literal

from flynn import FlynnError, Limits, LlamaCppClient


@dataclass
class Event:
    title: Annotated[str, Limits(maxLength=60)]
    city: Annotated[str, Limits(maxLength=30)]
    day: date
    price: Literal["free", "paid", "unknown"]


def main() -> int:
    folder, *endpoint = sys.argv[1:]
    client = LlamaCppClient(*endpoint or [os.environ.get("FLYNN_ENDPOINT", "http://localhost:8080")])
    failed = 0
    for path in sorted(Path(folder).glob("*.txt")):
        prompt = f"Which event is this, as JSON with title, city, day and price?\n\n{path.read_text(encoding='utf-8')}"
        try:
            event = client.chat_json(prompt, Event, retries=1, temperature=0, max_tokens=200)
        except FlynnError as error:
            print(f"{path}: {error}", file=sys.stderr)
            failed += 1
        else:
            print(json.dumps({"file": path.name, **asdict(event)}, ensure_ascii=False, default=str), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
