"""`flynn tokens`: how many tokens a text is."""

from __future__ import annotations

from .exits import DONE
from .options import connect, read_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .options import Given, Parser
    from .screen import Screen

EXAMPLES = """\
  flynn tokens "How long is this?"
  flynn tokens < report.txt
  flynn tokens --chat < prompt.txt     # as a prompt, with what the chat template adds"""


def add_options(parser: Parser) -> None:
    parser.usage = "flynn tokens [options] [TEXT ...]"
    parser.add_argument("words", nargs="*", metavar="TEXT", help="what to count; what is piped in is added to it")
    parser.add_argument("--chat", action="store_true", help="count what flynn ask would send, chat template included")
    parser.add_argument("--json", action="store_true", help='print {"tokens": N}')


def run(given: Given, screen: Screen) -> int:
    text = read_text(given.words)
    with connect(given) as client:
        count = client.count_tokens(text.rstrip("\r\n")) if given.chat else len(client.tokenize(text))
    if given.json:
        screen.write_json({"tokens": count})
    else:
        screen.write(f"{count}\n")
    return DONE
