"""`flynn tokens`: how many tokens a text is, and which."""

from __future__ import annotations

from typing import List

from ..models.local.tokens import TokenPiece
from .exits import DONE
from .options import Given, Parser, connect, read_text
from .terminal import Terminal

EXAMPLES = """\
  flynn tokens "How long is this?"
  flynn tokens < report.txt
  flynn tokens --pieces "na\u00efve"         # which tokens, and what each of them stands for
  flynn tokens --chat < prompt.txt     # as a prompt, with what the chat template adds"""


def add_options(parser: Parser) -> None:
    parser.usage = "flynn tokens [options] [TEXT ...]"
    parser.add_argument("words", nargs="*", metavar="TEXT", help="what to count; what is piped in is added to it")
    parser.add_argument("--chat", action="store_true", help="count what flynn ask would send, chat template included")
    parser.add_argument("--pieces", action="store_true", help="print the number of each token and what it stands for")
    parser.add_argument("--json", action="store_true", help='print {"tokens": N}, and with --pieces also these')


def run(given: Given, terminal: Terminal) -> int:
    text = read_text(given.words)
    with connect(given) as client:
        if given.chat:
            text = text.rstrip("\r\n")
        if given.pieces:
            text = client.apply_template(text) if given.chat else text
            _show(client.tokenize(text, add_special=given.chat, with_pieces=True), given, terminal)
            return DONE
        count = client.count_tokens(text) if given.chat else len(client.tokenize(text))
    if given.json:
        terminal.write_json({"tokens": count})
    else:
        terminal.write(f"{count}\n")
    return DONE


def _show(tokens: List[TokenPiece], given: Given, terminal: Terminal) -> None:
    if given.json:
        pieces = [
            {"id": token.id, "piece": token.piece if isinstance(token.piece, str) else list(token.piece)}
            for token in tokens
        ]
        terminal.write_json({"tokens": len(tokens), "pieces": pieces})
    else:
        width = max((len(str(token.id)) for token in tokens), default=0)
        # As Python writes them: blanks are seen, bytes that are no text by themselves are b'...', and no character of
        # the text does anything to the terminal.
        terminal.write("".join(f"{token.id:>{width}}  {token.piece!r}\n" for token in tokens))
