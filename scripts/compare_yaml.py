"""Compare Flynn's YAML reader with PyYAML on generated documents.

If Flynn accepts a document, it must read the same values and types, and the same positions of keys, as PyYAML's
`safe_load`. Flynn must accept every document of the YAML subset that its documentation promises. The script prints each
difference and then exits with status 1.

    python scripts/compare_yaml.py                            # 20,000 documents, the same in each run
    python scripts/compare_yaml.py --count 500000 --seed 7    # more and other documents
    python scripts/compare_yaml.py --record                   # write the expected values for the test suite

tests/data/yaml.json holds the documents of the test suite, which has no PyYAML. Each has the `repr` of its value, or
null if Flynn refuses it. To add a document, write it there with any value and run with --record.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

import yaml

ROOT = Path(__file__).resolve().parent.parent
RECORDED = ROOT / "tests" / "data" / "yaml.json"
sys.path.insert(0, str(ROOT))

from flynn.config.yaml import parse  # noqa: E402
from flynn.errors import ConfigError  # noqa: E402

Places = Dict[Tuple[object, ...], Tuple[int, int]]


class Documents:
    """Generate documents of three kinds from a seed.

    `promised` uses only the YAML subset that the configuration's documentation promises. `mutated` is such a document
    with a few random edits, like typing errors. `soup` has keys and values of characters with a meaning in YAML.

    Args:
        scalars: scalars to use in the documents.
    """

    def __init__(self, seed: int, scalars: List[str]) -> None:
        self.random = random.Random(seed)
        self.scalars = scalars

    def promised(self) -> str:
        lines = self.mapping(0, 0)
        if self.random.random() < 0.1:
            lines.insert(0, "---" + self.comment())
        for _ in range(self.random.choice((0, 0, 1, 2))):
            empty_line = " " * self.random.randrange(6) + self.random.choice(("", "# a: b", "#", "# é \t 'x"))
            lines.insert(self.random.randrange(len(lines) + 1), empty_line)
        return self.random.choice(("\n", "\n", "\n", "\r\n", "\r")).join([*lines, ""])

    def mapping(self, indent: int, depth: int) -> List[str]:
        lines = []
        margin = " " * indent
        for key in {key.strip("'\""): key for key in (self.key() for _ in range(self.random.randint(1, 4)))}.values():
            kind = self.random.choice(("scalar", "scalar", "scalar", "nested", "items", "brackets", "empty"))
            head = f"{margin}{key}" + self.random.choice((":", ":", ":", " :"))
            if kind == "nested" and depth < 4:
                lines += [head + self.comment(), *self.mapping(indent + self.random.randint(1, 4), depth + 1)]
            elif kind == "items":
                inner = margin + " " * self.random.randrange(4)
                items = [f"{inner}- {self.scalar()}{self.comment()}" for _ in range(self.random.randint(1, 3))]
                lines += [head + self.comment(), *items]
            elif kind == "brackets":
                inside = ", ".join(self.quoted() if self.random.random() < 0.5 else self.word() for _ in range(3))
                lines.append(f"{head} [{inside}]{self.comment()}")
            else:
                lines.append(head + ("" if kind == "empty" else f" {self.scalar()}") + self.comment())
        return lines

    def key(self) -> str:
        name = self.random.choice(("", "a", "max_", "x-", "é", "a b ", "a.")) + self.random.choice("abcdxz") + "k"
        return self.random.choice((name, name, name, f"'{name}'", f'"{name}"'))

    def scalar(self) -> str:
        choice = self.random.random()
        if choice < 0.3:
            return self.random.choice(self.scalars)
        if choice < 0.5:
            return " ".join(self.word() for _ in range(self.random.randint(1, 3)))
        return self.number() if choice < 0.7 else self.quoted()

    def word(self) -> str:
        inside = self.random.choice(
            ("", "", "b", "-", ".", "/", "#x", "'s", '"', ":8080", "://h", "é", "\xa0", "%20", "@h")
        )
        return self.random.choice("acdhkxz") + inside + self.random.choice("aeghz") * self.random.randrange(3)

    def number(self) -> str:
        digits = str(self.random.randrange(10 ** self.random.randint(1, 12)))
        form = self.random.choice(("{}", "-{}", "{}.{}", "{}.{}e+2", "0x{}", "0{}", "1:{}", "+{}", "{}_{}", ".{}"))
        return form.format(digits, digits[::-1])

    def quoted(self) -> str:
        alphabet = "ab :#-'\"\\[]{},&*!|>%@`?~1é你😀\t\xa0"
        text = "".join(self.random.choice(alphabet) for _ in range(self.random.randrange(8)))
        if self.random.random() < 0.4:
            return "'" + text.replace("'", "''") + "'"
        escapes = ("\\n", "\\t", "\\x41", "\\u00e9", "\\U0001F600", "\\e", "\\ ", "\\/", "\\N", "\\_", "\\0")
        text = text.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{text}{self.random.choice(escapes)}"' if self.random.random() < 0.5 else f'"{text}"'

    def comment(self) -> str:
        return self.random.choice(("", "", "", "", " ", "  # a: 'b", " #", " # é\t#"))

    def mutated(self) -> str:
        text = self.promised()
        special = [
            *" \t\n\r:#-'\"\\[]{},&*!|>%@`?~01.=<ké\xa0\x85\u2028\ufeff",
            "  ",
            ": ",
            " #",
            "- ",
            "\n  ",
            "---\n",
            "\n",
        ]
        for _ in range(self.random.choice((1, 1, 1, 2, 3))):
            start = self.random.randrange(len(text) + 1)
            end = start + self.random.choice((0, 0, 0, 1, 1, 2, 8))
            text = text[:start] + self.random.choice(("", *special) if end > start else special) + text[end:]
        return text

    def soup(self) -> str:
        alphabet = self.random.choice(
            ("0123456789._:+-eExXob", "ab :#-'\"[],", "ab:#\\\"'xu0 ", "yesnotruflaYNO~.", "aé \t:-?{}[]&*!|>%@`\xa0")
        )
        lines = []
        for name in "ab":
            text = "".join(self.random.choice(alphabet) for _ in range(self.random.randint(1, 9)))
            template = self.random.choice(
                (
                    "{0}: {1}",
                    "{0}: {1}",
                    "{0}: [{1}]",
                    "{0}: [{1}, {1}]",
                    '{0}: "{1}"',
                    "{0}:\n- {1}",
                    "{1}: {0}",
                    "{1}",
                )
            )
            lines.append(template.format(name, text))
        return "\n".join(lines)


def accepts(text: str) -> bool:
    return read_by_flynn(text)[0] is not None


def read_by_flynn(text: str) -> Tuple[Optional[str], Any]:
    """Return the `repr` of the value that Flynn reads, and the positions; None and the message if it refuses."""
    try:
        value, positions = parse(text)
    except ConfigError as error:
        return None, str(error)
    return repr(value), positions


def read_by_pyyaml(text: str) -> Tuple[Optional[str], Places]:
    """Return the `repr` of the value that PyYAML's `safe_load` reads, and the positions; None if PyYAML refuses.

    PyYAML raises ValueError for an invalid number.
    """
    places: Places = {}
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return "None", places
        collect(node, (), places)
        value = loader.construct_document(node)  # type: ignore[no-untyped-call]
        return repr(value), places
    except (yaml.YAMLError, ValueError):
        return None, places


def collect(node: yaml.Node, path: Tuple[object, ...], places: Places) -> None:
    """Add the line and column of each key to `places`."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            place = (*path, str(key.value))
            places[place] = (key.start_mark.line + 1, key.start_mark.column + 1)
            collect(value, place, places)


def difference(text: str) -> Optional[str]:
    """Describe how Flynn and PyYAML read a document differently; None if they agree or Flynn refuses."""
    ours, positions = read_by_flynn(text)
    if ours is None:
        return None
    theirs, places = read_by_pyyaml(text)
    if ours != theirs:
        return f"{text!r}\n  Flynn:  {ours}\n  PyYAML: {theirs}"
    wrong = {path: place for path, place in places.items() if positions.get(path) != place}
    return f"{text!r}\n  places: {wrong}, Flynn: {positions}" if wrong else None


# Each kind, its share of the documents, and the smallest share that must be accepted for a meaningful comparison.
KINDS: Tuple[Tuple[str, Callable[[Documents], str], float, float], ...] = (
    ("promised", Documents.promised, 0.4, 1.0),
    ("mutated", Documents.mutated, 0.4, 0.3),
    ("soup", Documents.soup, 0.2, 0.2),
)


def compare(name: str, texts: List[str], minimum: float) -> bool:
    """Compare documents of one kind and print a summary. Returns True if Flynn reads all of them correctly."""
    accepted = [text for text in texts if accepts(text)]
    wrong = [text for text in map(difference, accepted) if text]
    refused = sorted({*texts} - {*accepted})
    refused_only_by_flynn = sum(read_by_pyyaml(text)[0] is not None for text in refused)
    print(f"{name:9}{len(texts):7} documents, {len({*texts})} different")
    print(f"{len(accepted):16} accepted, {len(wrong)} of them read differently by PyYAML")
    print(f"{len(texts) - len(accepted):16} refused, {refused_only_by_flynn} of them read by PyYAML")
    for line in wrong[:10]:
        print(line)
    if len(accepted) < minimum * len(texts):
        example = f"{refused[0]!r}: {read_by_flynn(refused[0])[1]}"
        print(f"expected at least {minimum:.0%} accepted; refused e.g. {example}")
        return False
    return not wrong


def record(texts: List[str]) -> None:
    """Write tests/data/yaml.json: PyYAML's value for each document that Flynn accepts, null for the others."""
    expected = {text: read_by_pyyaml(text)[0] if accepts(text) else None for text in texts}
    RECORDED.write_text(json.dumps(expected, indent=0) + "\n", encoding="ascii")
    print(f"{RECORDED}: {len(texts)} documents, {list(expected.values()).count(None)} refused")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000, help="documents to generate (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the generator (default: %(default)s)")
    parser.add_argument("--record", action="store_true", help=f"write {RECORDED.name} instead of comparing")
    arguments = parser.parse_args()
    recorded = json.loads(RECORDED.read_text(encoding="ascii"))
    if arguments.record:
        record(list(recorded))
        return 0
    scalars = [text[3:-1] for text, value in recorded.items() if text[:3] == "k: " and text[3] != "[" and value]
    documents = Documents(arguments.seed, scalars)
    stale = [text for text, value in recorded.items() if value is not None and read_by_pyyaml(text)[0] != value]
    for text in stale:
        print(f"{RECORDED.name}: outdated value for {text!r}: run with --record")
    results = [not stale, compare("recorded", list(recorded), 0.3)]
    for name, generate, share, minimum in KINDS:
        results.append(compare(name, [generate(documents) for _ in range(int(arguments.count * share))], minimum))
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
