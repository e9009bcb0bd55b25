"""Endpoints: their forms, and invalid ones."""

from __future__ import annotations

from typing import Tuple

import pytest
from answers import reply, sent
from pytest_httpserver import HTTPServer
from scripted import CHAT, error

from flynn import ConfigError, LlamaCppClient, ServerError
from flynn.http.endpoint import parse_endpoint


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("http://localhost:8080", ("http", "localhost", 8080, "")),
        ("http://localhost", ("http", "localhost", 80, "")),
        ("http://localhost/", ("http", "localhost", 80, "")),
        ("https://example.org", ("https", "example.org", 443, "")),
        ("HTTPS://Example.org:8443", ("https", "example.org", 8443, "")),
        ("http://10.0.0.1:1/a/b/", ("http", "10.0.0.1", 1, "/a/b")),
        ("http://[::1]:8080/llm", ("http", "::1", 8080, "/llm")),
    ],
)
def test_a_url_is_split_into_its_parts(text: str, parts: Tuple[str, str, int, str]) -> None:
    endpoint = parse_endpoint(text)
    assert (endpoint.scheme, endpoint.host, endpoint.port, endpoint.prefix) == parts
    assert endpoint.socket_path is None
    assert endpoint.text == text


def test_a_unix_socket_is_an_absolute_path() -> None:
    endpoint = parse_endpoint("unix:///run/llama server/a?b#c.sock")
    assert (endpoint.scheme, endpoint.socket_path) == ("unix", "/run/llama server/a?b#c.sock")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "localhost",
        "localhost:8080",
        "//localhost:8080",
        "ftp://localhost",
        "http://",
        "http:///path",
        "http://:8080",
        "http://localhost:port",
        "http://localhost:0",
        "http://localhost:65536",
        "http://localhost:-1",
        "http://[::1",
        "http://localhost:8080?x=y",
        "http://localhost:8080/?",
        "http://localhost:8080#",
        "http://local host:8080",
        "http://localhost:8080/a b",
        "http://localhost:8080/\n",
        "http://localhost:8080\r\nX-Evil: 1",
        "\thttp://localhost",
        "http://bücher.example",
        "http://localhost\udc80",
        "unix://relative.sock",
        "unix://",
        "unix:///",
        "unix:///a\0b",
        "unix:///" + "x" * 107,
        "unix:/run/x.sock",
    ],
)
def test_an_invalid_endpoint_is_refused_with_one_line_that_says_what_to_write(text: str) -> None:
    for parse in (parse_endpoint, LlamaCppClient):
        with pytest.raises(ConfigError) as caught:
            parse(text)
        message = str(caught.value)
        assert len(message.splitlines()) == 1
        assert "unix://" in message or "write" in message


@pytest.mark.parametrize("value", [None, 8080, b"http://localhost"])
def test_an_endpoint_is_a_string(value: object) -> None:
    with pytest.raises(ConfigError, match="an endpoint is a string"):
        parse_endpoint(value)  # type: ignore[arg-type]


def test_a_password_in_an_endpoint_is_refused_and_not_shown() -> None:
    with pytest.raises(ConfigError, match="auth_token") as caught:
        parse_endpoint("http://user:hunter2@localhost:8080")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("LOCALHOST", True),
        ("localhost.", True),
        ("llm.localhost", True),
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("[::1]", True),
        ("[0:0:0:0:0:0:0:1]", True),
        ("[::ffff:127.0.0.1]", True),
        ("128.0.0.1", False),
        ("127.0.0.1.example.org", False),
        ("localhost.example.org", False),
        ("127.1", True),
        ("2130706433", True),
        ("0.0.0.0", True),
        ("[::]", True),
        ("ip6-localhost", True),
        ("[::2]", False),
        ("example.org", False),
    ],
)
def test_a_local_host_is_recognised_by_any_of_its_names(host: str, loopback: bool) -> None:
    assert parse_endpoint(f"http://{host}:80").is_local is loopback


@pytest.mark.parametrize("zone", ["%25eth0", "%eth0"])
def test_the_zone_of_an_address_is_not_in_the_host_header(zone: str) -> None:
    endpoint = parse_endpoint(f"http://[fe80::1{zone}]:8080")
    assert (endpoint.host, endpoint.host_header) == ("fe80::1%eth0", "[fe80::1]:8080")


def only_without_v1(server: HTTPServer) -> None:
    """Like llama-server: /v1 is part of some routes, and a prefix of none."""
    server.expect_request("/v1/chat/completions").respond_with_handler(reply(CHAT))
    server.expect_request("/props").respond_with_handler(reply({"total_slots": 4}))
    for path in ("/v1/v1/chat/completions", "/v1/props", "/v1/nope", "/nope"):
        server.expect_request(path).respond_with_handler(reply(error(404, "File Not Found", "not_found_error"), 404))


def test_the_prefix_v1_is_dropped_if_the_server_does_not_know_it(httpserver: HTTPServer, endpoint: str) -> None:
    only_without_v1(httpserver)
    client = LlamaCppClient(f"{endpoint}/v1")
    assert client.chat("Hi").content == "Hello!"
    assert client.props().total_slots == 4
    paths = [request.path for request in sent(httpserver)]
    assert paths == ["/v1/v1/chat/completions", "/v1/chat/completions", "/props"]


def test_the_prefix_v1_stays_if_the_server_knows_it(httpserver: HTTPServer, endpoint: str) -> None:
    httpserver.expect_request("/v1/v1/chat/completions").respond_with_handler(reply(CHAT))
    client = LlamaCppClient(f"{endpoint}/v1")
    for _ in range(2):
        client.chat("Hi")


def test_a_route_that_is_not_found_says_where_it_was_looked_for(httpserver: HTTPServer, endpoint: str) -> None:
    only_without_v1(httpserver)
    client = LlamaCppClient(endpoint)
    with pytest.raises(ServerError) as caught:
        client.request("GET", "/nope?q=1")
    assert (str(caught.value), caught.value.hint) == ("File Not Found", f"asked for {endpoint}/nope")
