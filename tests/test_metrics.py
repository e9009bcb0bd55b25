"""The lines of `/metrics`: read as Prometheus writes them; others are refused quickly."""

from __future__ import annotations

from typing import Any

import pytest

from flynn import ProtocolError
from flynn.models.local.server import decode_metrics

HOSTILE = [
    b"a{" + b'b="' * 20_000 + b"} 1",
    b"a{" + b'b="c",' * 20_000 + b" 1",
    b"a{" + b" " * 100_000 + b" 1",
    b"a{" + b"b" * 100_000 + b"} 1",
    b'a{b="' + b"\\" * 100_001 + b'"} 1',
    b"a" * 100_000 + b"{",
    b"a " + b" " * 100_000 + b"x",
    b"{" * 100_000,
    b"a" + b" 1" * 50_000,
]


@pytest.mark.parametrize("line", HOSTILE, ids=lambda line: repr(line[:20]))
def test_a_hostile_line_is_refused_in_linear_time(line: bytes) -> None:
    with pytest.raises(ProtocolError, match="expected a metric"):
        decode_metrics(line)  # quadratic time would be minutes


@pytest.mark.parametrize(
    ("line", "labels", "value"),
    [
        (b"a 1", {}, 1.0),
        (b"a\t1 1700000000", {}, 1.0),
        (b"a{} 2", {}, 2.0),
        (b'a{b="c"} 3', {"b": "c"}, 3.0),
        (b'a{b="c",} 3', {"b": "c"}, 3.0),
        (b'a { b = "c" , d="e\\"f\\ng\\\\" } +Inf -5', {"b": "c", "d": 'e"f\ng\\'}, float("inf")),
        (b'a{b="}"} 4', {"b": "}"}, 4.0),
    ],
)
def test_metrics_are_read_as_prometheus_writes_them(line: bytes, labels: Any, value: float) -> None:
    (metric,) = decode_metrics(line).samples
    assert (metric.name, metric.labels, metric.value) == ("a", labels, value)


@pytest.mark.parametrize("line", [b"a", b"a b", b"1a 1", b'a{b="c" 1', b'a{b="c"', b"a{b=c} 1", b"a 1 2 3", b"-a 1"])
def test_an_invalid_metric_is_a_protocol_error(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_metrics(line)
