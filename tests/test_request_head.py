"""The head of a request: what goes out, and that nothing can be smuggled into it."""

from __future__ import annotations

from typing import Optional

import pytest

from flynn import ConfigError
from flynn.http.endpoint import parse_endpoint
from flynn.http.request import encode_head


@pytest.mark.parametrize(
    ("method", "body", "length"),
    [("POST", b"{}", "2"), ("POST", b"", "0"), ("POST", None, "0"), ("GET", None, None), ("DELETE", None, None)],
)
def test_the_length_of_a_body_is_told_where_one_is_expected(
    method: str, body: Optional[bytes], length: Optional[str]
) -> None:
    head = encode_head(method, "/x", {"Host": "h", "Accept": "*/*"}, body).decode()
    lines = [f"{method} /x HTTP/1.1", "Host: h", "Accept: */*", *([f"Content-Length: {length}"] if length else [])]
    assert head == "\r\n".join([*lines, "", ""])


@pytest.mark.parametrize("wrong", ["\r", "\n", "\r\nX: y", "\0", "\x7f", "é", "\u2028", "\x85"])
def test_what_could_begin_a_new_line_goes_nowhere(wrong: str) -> None:
    for method, target, value in ((wrong, "/", ""), ("GET", f"/{wrong}", ""), ("GET", "/", wrong)):
        with pytest.raises(ConfigError, match="printable ASCII"):
            encode_head(method, target, {"X": value})
    with pytest.raises(ConfigError, match="printable ASCII"):
        encode_head("GET", "/", {f"X{wrong}": "y"})


@pytest.mark.parametrize(("method", "target"), [("", "/"), ("G T", "/"), ("GET", "/a b"), ("GET ", "/"), ("GET:", "/")])
def test_a_request_line_has_three_words(method: str, target: str) -> None:
    with pytest.raises(ConfigError, match="without blanks"):
        encode_head(method, target, {})


def test_an_error_does_not_show_headers() -> None:
    with pytest.raises(ConfigError) as error:
        encode_head("GET", "/", {"Authorization": "Bearer secret\n"})
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("endpoint", "host"),
    [
        ("http://h", "h"),
        ("http://h:80", "h"),
        ("http://h:443", "h:443"),
        ("https://h", "h"),
        ("https://h:443", "h"),
        ("https://h:8080", "h:8080"),
        ("http://[::1]", "[::1]"),
        ("http://[::1]:8080", "[::1]:8080"),
        ("unix:///run/x.sock", "localhost"),
    ],
)
def test_the_host_header_has_the_port_unless_it_is_the_schemes_own(endpoint: str, host: str) -> None:
    assert parse_endpoint(endpoint).host_header == host
