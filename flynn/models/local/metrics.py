"""The server's metrics: Prometheus' text format, read. No I/O.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/ and `to_metrics` of `server-task.cpp` in llama.cpp.
"""

from __future__ import annotations

import re

from ...dataclass import dataclass, field
from ...errors import ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Mapping, Sequence

_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})?\s+(\S+)(?:\s+-?\d+)?")
_LABEL = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*"((?:[^"\\]|\\.)*)"\s*(?:,|$)')
_ESCAPE = re.compile(r"\\(.)")


@dataclass(frozen=True)
class Metric:
    """One measured value.

    Attributes:
        name: e.g. `"llamacpp:requests_processing"`.
        value: a number, perhaps NaN or infinite.
        type: `"counter"`, `"gauge"`, …; `"untyped"` if the server did not say.
        help: what it means, in the server's words.
        labels: what tells it from others of the same name, e.g. `{"position": "0"}`.
    """

    name: str
    value: float
    type: str = "untyped"
    help: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Metrics:
    """What the server measures. `metrics[name]` is the value of the one that has this name and no labels.

    Attributes:
        samples: all of them, in the server's order.
        raw: the server's text, untouched.
    """

    samples: Sequence[Metric]
    raw: str = field(repr=False)

    def __getitem__(self, name: str) -> float:
        for metric in self.samples:
            if metric.name == name and not metric.labels:
                return metric.value
        raise KeyError(name)


def decode_metrics(data: bytes) -> Metrics:
    """The metrics in a Prometheus text.

    Raises:
        ProtocolError: it is none.

    Example:
        >>> decode_metrics(b'# TYPE requests gauge\\nrequests{slot="0"} 2\\n').samples
        (Metric(name='requests', value=2.0, type='gauge', help='', labels={'slot': '0'}),)
    """
    text = data.decode("utf-8", "replace")
    about: Dict[str, Dict[str, str]] = {"HELP": {}, "TYPE": {}}
    samples = []
    for line in map(str.strip, text.split("\n")):
        if line.startswith("#"):
            _, kind, name, words = (line.split(None, 3) + [""] * 3)[:4]
            about.get(kind, {})[name] = _ESCAPE.sub(_unescaped, words)
        elif line:
            samples.append(_metric(line, about))
    return Metrics(tuple(samples), text)


def _metric(line: str, about: Mapping[str, Mapping[str, str]]) -> Metric:
    sample = _SAMPLE.fullmatch(line)
    try:
        if sample:
            name, labels, value = sample.groups()
            named = {label: _ESCAPE.sub(_unescaped, words) for label, words in _LABEL.findall(labels or "")}
            return Metric(name, float(value), about["TYPE"].get(name, "untyped"), about["HELP"].get(name, ""), named)
    except ValueError:
        pass
    raise ProtocolError(f"expected a metric in Prometheus' text format, got {line[:80]!r}")


def _unescaped(match: re.Match[str]) -> str:
    return {"n": "\n"}.get(match[1], match[1])
