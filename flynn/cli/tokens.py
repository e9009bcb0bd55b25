"""`flynn tokens`: the number of tokens of a text, and the tokens themselves."""

from __future__ import annotations

from typing import List

from ..models.local.tokens import TokenPiece
from .exits import DONE
from .options import Given, Parser, connect, read_text
from .terminal import Terminal

EXAMPLES = """\
  flynn tokens "How long is this?"
  flynn tokens < report.txt
  flynn tokens --pieces "na\u00efve"         # the number of each token, and its text
  flynn tokens --chat < prompt.txt     # as a prompt, chat template included"""


def add_options(parser: Parser) -> None:
    parser.usage = "flynn tokens [options] [TEXT ...]"
    parser.add_argument("words", nargs="*", metavar="TEXT", help="the text; piped input is added after an empty line")
    parser.add_argument("--chat", action="store_true", help="count what flynn ask would send, chat template included")
    parser.add_argument("--pieces", action="store_true", help="print the number of each token and what it stands for")
    parser.add_argument("--json", action="store_true", help='print {"tokens": N}, with --pieces also the pieces')


def run(given: Given, terminal: Terminal) -> int:
    text = read_text(given.words)
    with connect(given) as client:
        if given.chat:
            text = text.rstrip("\r\n")
        if given.pieces:
            text = client.apply_template(text) if given.chat else text
            _show_pieces(client.tokenize(text, add_special=given.chat, with_pieces=True), given, terminal)
            return DONE
        count = client.count_tokens(text) if given.chat else len(client.tokenize(text))
    if given.json:
        terminal.write_json({"tokens": count})
    else:
        terminal.write(f"{count}\n")
    return DONE


def _show_pieces(tokens: List[TokenPiece], given: Given, terminal: Terminal) -> None:
    if given.json:
        texts = [token.piece if isinstance(token.piece, str) else list(token.piece) for token in tokens]
        pieces = [{"id": token.id, "piece": text} for token, text in zip(tokens, texts)]
        terminal.write_json({"tokens": len(tokens), "pieces": pieces})
        return
    width = max((len(str(token.id)) for token in tokens), default=0)
    # In Python's notation spaces are visible, incomplete characters are b'...', and no control character reaches the
    # terminal.
    terminal.write("".join(f"{token.id:>{width}}  {token.piece!r}\n" for token in tokens))
