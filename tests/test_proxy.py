"""Proxies from the environment, through a real one."""

from __future__ import annotations

import base64
import select
import socket
import ssl

import pytest
import trustme
from scripted import CHAT, Disconnected, Peer, ScriptedServer, answering, delta, response, serve, stream

from flynn import ConfigError, LlamaCppClient, ProtocolError, ServerNotRunningError

# A name that resolves nowhere: who reaches it went through the proxy, which knows it.
HOST = "llm.example.invalid"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


def tunnel_to(target: ScriptedServer) -> object:
    """A proxy's script: CONNECT, then bytes in both directions."""

    def script(peer: Peer) -> None:
        assert peer.request().method == "CONNECT"
        with socket.create_connection(("localhost", target.port)) as other:
            peer.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
            ways = {peer.sock: other, other: peer.sock}
            while True:
                for source in select.select(list(ways), [], [])[0]:
                    data = source.recv(65536)
                    if not data:
                        raise Disconnected
                    ways[source].sendall(data)

    return script


def test_http_requests_go_to_the_proxy_with_the_absolute_url(environment: pytest.MonkeyPatch) -> None:
    with serve(answering(response(CHAT), stream(delta("x")))) as proxy:
        environment.setenv("http_proxy", f"http://us%40er:pass%3Aword@localhost:{proxy.port}")
        client = LlamaCppClient(f"http://{HOST}:8080/prefix", auth_token="secret")
        client.chat("Hi")
        assert "".join(client.chat_stream("Hi").text()) == "x"
    assert len(proxy.requests) == 2
    for request in proxy.requests:
        assert request.target == f"http://{HOST}:8080/prefix/v1/chat/completions"
        assert request.headers["host"] == f"{HOST}:8080"
        assert request.headers["authorization"] == "Bearer secret"
        assert request.headers["proxy-authorization"] == f"Basic {base64.b64encode(b'us@er:pass:word').decode()}"


def test_https_goes_through_a_tunnel_that_the_proxy_cannot_read(environment: pytest.MonkeyPatch) -> None:
    authority = trustme.CA()
    inside, outside = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert(HOST).configure_cert(inside)
    authority.configure_trust(outside)
    answers = answering(response(CHAT), stream(delta("x")))
    with serve(answers, tls=inside) as server, serve(tunnel_to(server)) as proxy:  # type: ignore[arg-type]
        environment.setenv("HTTPS_PROXY", f"localhost:{proxy.port}")
        environment.setenv("https_proxy", f"http://user:word@localhost:{proxy.port}")
        client = LlamaCppClient(f"https://{HOST}:8443", auth_token="secret", ssl_context=outside)
        assert client.chat("Hi").content == "Hello!"
        assert "".join(client.chat_stream("Hi").text()) == "x"
        client.close()
    assert len(proxy.requests) == 2
    for connect in proxy.requests:
        assert connect.target == f"{HOST}:8443"
        assert connect.headers["proxy-authorization"] == f"Basic {base64.b64encode(b'user:word').decode()}"
        assert "authorization" not in connect.headers
    assert [request.headers["authorization"] for request in server.requests] == ["Bearer secret"] * 2
    assert "proxy-authorization" not in server.requests[0].headers


def test_the_error_of_a_refusing_proxy_names_it_and_its_reason(environment: pytest.MonkeyPatch) -> None:
    refusal = response(b"", "407 Proxy Authentication Required")
    with serve(answering(refusal)) as proxy:
        environment.setenv("https_proxy", f"http://localhost:{proxy.port}")
        with pytest.raises(ProtocolError, match="407 Proxy Authentication Required"):
            LlamaCppClient(f"https://{HOST}", auth_token="secret").tokenize("Hi")
    assert "authorization" not in proxy.requests[0].headers


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "LOCALHOST", "127.1", "2130706433", "0.0.0.0"])
def test_loopback_is_never_reached_through_a_proxy(host: str, environment: pytest.MonkeyPatch) -> None:
    with serve(answering(response(CHAT))) as server, serve(answering(response(CHAT))) as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            environment.setenv(name, f"http://localhost:{proxy.port}")
        LlamaCppClient(f"http://{host}:{server.port}").chat("Hi")
        assert (server.connections, proxy.connections) == (1, 0)


@pytest.mark.parametrize("exception", [HOST, "invalid", ".example.invalid", f"{HOST}:8080", "other,  " + HOST, "*"])
def test_hosts_in_no_proxy_are_connected_to_directly(exception: str, environment: pytest.MonkeyPatch) -> None:
    with serve(answering(response(CHAT))) as proxy:
        environment.setenv("http_proxy", f"http://localhost:{proxy.port}")
        environment.setenv("no_proxy", exception)
        with pytest.raises(ServerNotRunningError):
            LlamaCppClient(f"http://{HOST}:8080").chat("Hi")
        assert proxy.connections == 0


@pytest.mark.parametrize(
    "address", ["socks5://localhost:1080", "https://localhost:1", "http://localhost:port", "http://"]
)
def test_an_unsupported_proxy_is_refused_without_showing_its_password(
    address: str, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("http_proxy", address.replace("://", "://user:hunter2@"))
    with pytest.raises(ConfigError, match="^http_proxy in the environment is not of the form") as caught:
        LlamaCppClient(f"http://{HOST}").chat("Hi")
    assert "hunter2" not in str(caught.value)
    assert "no_proxy" in str(caught.value)


def test_a_proxy_that_is_down_is_named(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("http_proxy", "http://localhost:1")
    with pytest.raises(ServerNotRunningError) as caught:
        LlamaCppClient(f"http://{HOST}").chat("Hi")
    assert caught.value.hint == "the proxy localhost:1: Connection refused"
