"""Reading `/metrics`, which has the text format of Prometheus. Other lines are refused in linear time."""

from __future__ import annotations

import math
from typing import Any

import pytest

from flynn import Metric, ProtocolError
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
def test_a_metric_has_a_name_labels_and_a_value(line: bytes, labels: Any, value: float) -> None:
    (metric,) = decode_metrics(line).samples
    assert (metric.name, metric.labels, metric.value) == ("a", labels, value)


def test_metrics_have_types_help_and_special_values() -> None:
    text = (
        b"# HELP requests All requests.\\nSince the start.\n# TYPE requests counter\n"
        b'requests{path="/a",text="say \\"hi\\"\\n\\\\"} 3\n'
        b"requests 1.5e3 1700000000000\n\n# a comment\n#\n  odd_one   NaN\r\nbig +Inf\nsmall -Inf\n"
    )
    metrics = decode_metrics(text)
    labelled, plain, odd, big, small = metrics.samples
    labels = {"path": "/a", "text": 'say "hi"\n\\'}
    assert labelled == Metric("requests", 3.0, "counter", "All requests.\nSince the start.", labels)
    assert metrics["requests"] == plain.value == 1500
    assert odd.type == "untyped"
    assert math.isnan(odd.value)
    assert (big.value, small.value) == (math.inf, -math.inf)
    assert metrics.raw == text.decode()


INVALID = [
    b"a", b"a b", b"1a 1", b'a{b="c" 1', b'a{b="c"', b'a{b="c} 1 2 3', b"a{b=c} 1", b"a 1 2 3", b"-a 1", b"<html>",
    b"a" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("line", INVALID, ids=lambda line: repr(line[:20]))
def test_an_invalid_metric_is_a_protocol_error(line: bytes) -> None:
    with pytest.raises(ProtocolError, match="expected a metric") as caught:
        decode_metrics(line)
    assert len(str(caught.value)) < 200
