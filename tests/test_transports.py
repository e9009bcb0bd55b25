"""Where a connection may lead: a prefix, a UNIX socket, TLS."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme
from scripted import (
    CHAT,
    HELLO,
    STREAM_HEAD,
    Peer,
    answering,
    chunk,
    closing,
    delta,
    eventually,
    response,
    serve,
)

from flynn import (
    ConnectionLostError,
    LlamaCppClient,
    ProtocolError,
    ServerNotRunningError,
    StreamInterruptedError,
)


def test_the_prefix_of_the_endpoint_precedes_every_route() -> None:
    with serve(answering(response(CHAT), response(b'{"status": "ok"}'))) as server:
        client = LlamaCppClient(f"{server.endpoint}/a/b/")
        client.chat("Hi")
        client.health()
    assert [r.target for r in server.requests] == ["/a/b/v1/chat/completions", "/a/b/health"]


def test_the_host_header_names_the_server() -> None:
    with serve(answering(response(CHAT))) as server:
        LlamaCppClient(server.endpoint).chat("Hi")
    assert server.requests[0].headers["host"] == f"localhost:{server.port}"


def test_calls_and_streams_work_over_a_unix_socket(tmp_path: Path) -> None:
    with serve(answering(response(CHAT), HELLO), unix=tmp_path / "a server.sock") as server:
        client = LlamaCppClient(server.endpoint)
        assert client.chat("Hi").content == "Hello!"
        assert "".join(client.chat_stream("Hi").text()) == "Hello!"
    assert [request.headers["host"] for request in server.requests] == ["localhost"] * 2


@pytest.mark.parametrize("name", ["missing.sock", "a file"])
def test_a_missing_unix_socket_is_a_server_that_is_not_running(name: str, tmp_path: Path) -> None:
    (tmp_path / "a file").write_text("")
    endpoint = f"unix://{tmp_path / name}"
    with pytest.raises(ServerNotRunningError) as caught:
        LlamaCppClient(endpoint).chat("Hi")
    assert str(caught.value) == f"llama-server not running at {endpoint}"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    return context


@pytest.fixture(scope="module")
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def test_https_works_with_an_ssl_context_that_trusts_the_server(tls: ssl.SSLContext, trusting: ssl.SSLContext) -> None:
    with serve(answering(response(CHAT), HELLO, response(CHAT)), tls=tls) as server:
        client = LlamaCppClient(server.endpoint, ssl_context=trusting)
        assert client.chat("Hi").content == "Hello!"
        assert "".join(client.chat_stream("Hi").text()) == "Hello!"
        assert client.chat("Hi").content == "Hello!"
    assert server.connections == 2
    assert server.requests[0].headers["host"] == f"localhost:{server.port}"


def test_an_untrusted_server_is_one_clear_error(tls: ssl.SSLContext) -> None:
    with serve(answering(response(CHAT)), tls=tls) as server:
        client = LlamaCppClient(server.endpoint, auth_token="secret")
        for call in (client.tokenize, lambda prompt: list(client.chat_stream(prompt))):
            with pytest.raises(ProtocolError, match="certificate verify failed") as caught:
                call("Hi")
            assert len(str(caught.value).splitlines()) == 1
            assert server.endpoint in str(caught.value)
    assert server.requests == []


def test_a_certificate_for_another_name_is_refused(authority: trustme.CA, trusting: ssl.SSLContext) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("example.org").configure_cert(context)
    with serve(answering(response(CHAT)), tls=context) as server, pytest.raises(ProtocolError, match="not valid for"):
        LlamaCppClient(server.endpoint, ssl_context=trusting).chat("Hi")
    assert server.requests == []


def test_https_to_a_server_without_tls_is_a_protocol_error() -> None:
    def script(peer: Peer) -> None:
        peer.sock.recv(1000)
        peer.send(response(b"", "400 Bad Request"))

    with serve(script) as server, pytest.raises(ProtocolError, match="expected a TLS server at https://"):
        LlamaCppClient(server.endpoint.replace("http:", "https:")).chat("Hi")


def test_http_to_a_server_with_tls_is_a_protocol_error(tls: ssl.SSLContext) -> None:
    with serve(answering(response(CHAT)), tls=tls) as server, pytest.raises(ProtocolError):
        LlamaCppClient(server.endpoint.replace("https:", "http:")).chat("Hi")


def test_a_tls_connection_cut_in_the_handshake_is_a_lost_connection() -> None:
    with serve(lambda peer: peer.sock.recv(10)) as server, pytest.raises(ConnectionLostError):
        LlamaCppClient(server.endpoint.replace("http:", "https:")).chat("Hi")


@pytest.mark.parametrize("end", [Peer.close, Peer.reset])
def test_an_idle_tls_connection_that_the_server_closed_is_replaced(
    end: object, tls: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    def script(peer: Peer) -> None:
        closing(response(CHAT))(peer)
        peer.request()
        end(peer)  # type: ignore[operator]

    with serve(script, closing(response(CHAT)), answering(response(CHAT)), tls=tls) as server:
        client = LlamaCppClient(server.endpoint, ssl_context=trusting)
        client.chat("one")
        client.chat("two")
        eventually(lambda: server.closed == 2)
        client.chat("three")
    assert [request.connection for request in server.requests] == [0, 0, 1, 2]


def test_a_cut_tls_stream_is_not_taken_for_complete(tls: ssl.SSLContext, trusting: ssl.SSLContext) -> None:
    cut = STREAM_HEAD + chunk(delta("Hel"))
    with serve(closing(cut), tls=tls) as server, pytest.raises(StreamInterruptedError, match="3 characters"):
        list(LlamaCppClient(server.endpoint, ssl_context=trusting).chat_stream("Hi"))
