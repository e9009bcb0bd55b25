"""Classify many short reviews in parallel with a JSON schema. Prints one JSON object per line.

python3 scripts/examples/batch.py REVIEWS.txt [ENDPOINT]      # one review per line
"""

import json
import sys

from flynn import LlamaCppClient
from flynn.batch import run

SCHEMA = {
    "type": "object",
    "properties": {"opinion": {"enum": ["good", "bad", "mixed"]}},
    "required": ["opinion"],
}


def main() -> int:
    path, *endpoint = sys.argv[1:]
    with open(path, encoding="utf-8") as file:
        reviews = [line.strip() for line in file if line.strip()]
    prompts = [f"What is the opinion in this review? {review}" for review in reviews]
    client = LlamaCppClient(*endpoint)
    failed = 0
    for result in run(prompts, client, defaults={"json_schema": SCHEMA, "max_tokens": 30, "temperature": 0}):
        if result.error is None:
            review = reviews[result.number - 1]
            print(json.dumps({"review": review, **json.loads(result.content)}, ensure_ascii=False))
        else:
            print(result.error, file=sys.stderr)
            failed += 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
