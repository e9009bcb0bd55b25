"""Chat in the terminal. An empty line ends the conversation.

python3 scripts/examples/chat.py [ENDPOINT]
"""

import sys

from flynn import Conversation, FlynnError, LlamaCppClient


def main() -> int:
    client = LlamaCppClient(*sys.argv[1:2])
    conversation = Conversation(client, "Answer in one or two sentences.", max_tokens=200, resume=True)
    while prompt := input("> "):
        try:
            for text in conversation.chat_stream(prompt).text():
                print(text, end="", flush=True)
            print()
        except FlynnError as error:
            print(error, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
