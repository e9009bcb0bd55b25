"""The client of the hub: tokens, proxies, errors of the hub, and invalid responses."""

from __future__ import annotations

from email.message import Message
from pathlib import Path

import pytest
from installer import download
from installer.errors import InstallError
from installer.hub import Hub, retry_after
from installer.source import parse

from . import hub as fake
from .downloader import NAME, SHARDS, TOKEN, Downloader
from .hub import CDN_HOST, COMMIT, HUB_HOST, REPOSITORY, replace_body, status


def test_the_token_goes_to_the_hub_and_never_to_the_cdn(get: Downloader) -> None:
    get.environ["HF_TOKEN"] = TOKEN
    get()
    for request in get.server.requests:
        authorization = request.headers.get("authorization")
        assert authorization == (f"Bearer {TOKEN}" if request.host == HUB_HOST else None)
        assert request.host == HUB_HOST or TOKEN not in str(request)


def test_the_token_is_not_sent_to_a_url_on_another_host(get: Downloader) -> None:
    get.environ["HF_TOKEN"] = TOKEN
    url = f"http://{CDN_HOST}:{get.server.cdn_port}/blobs/{NAME}"
    get(spec=url, digests=(str(get.server.digest(NAME)),))
    assert get.is_complete()
    assert all("authorization" not in request.headers for request in get.server.requests)


def test_a_token_with_a_line_break_is_refused_and_not_printed(get: Downloader) -> None:
    get.environ["HF_TOKEN"] = "abc\r\nX-Evil: 1"
    with pytest.raises(InstallError, match="HF_TOKEN") as error:
        get()
    assert "abc" not in str(error.value)


def test_a_token_is_not_sent_unencrypted_over_the_network() -> None:
    with pytest.raises(InstallError, match="use https"):
        Hub({"HF_ENDPOINT": "http://mirror.example", "HF_TOKEN": TOKEN})


def test_proxies_of_the_environment_are_used(get: Downloader, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", f"http://{CDN_HOST}:{get.server.cdn_port}")
    get.environ["HF_ENDPOINT"] = "http://hub.example"
    model = parse(get.server.spec(NAME), endpoint="http://hub.example", digests=(str(get.server.digest(NAME)),))
    files = download.describe(model.files, Hub(get.environ), get.messages.append)
    assert files[0].size == len(get.server.files[NAME])
    assert get.server.requests[-1].path.startswith("http://hub.example/")


def test_a_missing_file_is_reported(get: Downloader) -> None:
    with pytest.raises(InstallError, match="the file does not exist"):
        get("absent.gguf")


def test_a_refused_file_is_reported_with_a_hint_about_tokens(get: Downloader) -> None:
    get.server.faults = [status(401)]
    with pytest.raises(InstallError, match="401") as error:
        get()
    assert "HF_TOKEN" in error.value.hint


@pytest.mark.parametrize(
    ("code", "error_code", "message", "hint"),
    [
        (401, "RepoNotFound", "the repository does not exist or is not public", "Check the name"),
        (401, "", "the repository does not exist or is not public", "Check the name"),
        (403, "GatedRepo", "requires agreement to terms", "Agree to the terms"),
        (404, "RevisionNotFound", "the revision does not exist", ""),
        (404, "EntryNotFound", "the file does not exist", ""),
    ],
)
def test_each_reason_of_a_refusal_has_its_message(
    get: Downloader, code: int, error_code: str, message: str, hint: str
) -> None:
    get.server.api_faults = [status(code, X_Error_Code=error_code)]
    with pytest.raises(InstallError, match=message) as error:
        get(spec=REPOSITORY)
    assert error.value.hint.startswith(hint)


def test_a_token_without_read_access_is_reported(get: Downloader) -> None:
    get.environ["HF_TOKEN"] = TOKEN
    get.server.api_faults = [status(401)]
    with pytest.raises(InstallError, match="this token has no read access") as error:
        get(spec=REPOSITORY)
    assert TOKEN not in str(error.value) + error.value.hint


def test_a_repository_and_a_quantization_are_pinned_by_the_hubs_listing(get: Downloader) -> None:
    spec = f"{REPOSITORY}:q4_K_m"
    assert get(spec=spec)
    assert all(get.is_complete(name) for name in SHARDS)
    assert [file.sha256 for file in get.describe(spec=spec)] == [get.server.digest(name) for name in SHARDS]
    paths = [request.path for request in get.server.requests if request.host == HUB_HOST]
    assert paths[0] == f"/api/models/{REPOSITORY}/revision/main?blobs=true"
    assert all(f"/resolve/{COMMIT}/" in path for path in paths[1 : 1 + len(SHARDS)])


@pytest.mark.parametrize(
    "answer", [b"", b"null", b"[]", b'{"sha": "main"}', b'{"sha": 5, "siblings": []}', b"[" * 100_000, b"<html>"]
)
def test_an_invalid_listing_is_reported_in_one_line(get: Downloader, answer: bytes) -> None:
    get.server.api_faults = [replace_body(answer)]
    with pytest.raises(InstallError, match="not a response of a model hub"):
        get(spec=REPOSITORY)


def test_a_listing_with_an_absurd_size_is_reported_in_one_line(get: Downloader) -> None:
    lfs = f'{{"size": {"9" * 4000}, "sha256": "{"0" * 64}"}}'
    get.server.api_faults = [
        replace_body(f'{{"sha": "{COMMIT}", "siblings": [{{"rfilename": "m.gguf", "lfs": {lfs}}}]}}'.encode())
    ]
    with pytest.raises(InstallError, match="not a response of a model hub"):
        get(spec=REPOSITORY)


def test_the_token_of_a_login_is_sent_to_the_hub(get: Downloader, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    get.environ["HF_HOME"] = str(tmp_path)
    get()
    assert [request.headers.get("authorization") for request in get.server.requests if request.host == HUB_HOST] == [
        f"Bearer {TOKEN}"
    ] * 2
    assert all("authorization" not in request.headers for request in get.server.bodies())


def test_the_token_of_a_login_is_not_sent_unencrypted(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    hub = Hub({"HF_ENDPOINT": "http://mirror.example", "HF_HOME": str(tmp_path)})
    assert "Authorization" not in str(hub.request("http://mirror.example/m", {}).unredirected_hdrs)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "localhost", "2130706433"])
def test_no_proxy_is_used_for_this_machine(
    get: Downloader, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, host: str
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with fake.running() as proxy:
        monkeypatch.setenv("http_proxy", proxy.endpoint)
        get.environ.update(HF_TOKEN=TOKEN, HF_ENDPOINT=f"http://{host}:{get.server.hub_port}")
        assert get()
        assert proxy.requests == []


def test_a_retry_after_of_400_digits_fails_with_the_reason(get: Downloader) -> None:
    get.server.faults = [status(429, Retry_After="9" * 400)]
    with pytest.raises(InstallError, match="429.*asks to retry after"):
        get()


@pytest.mark.parametrize("date", ["Tue, 99 Foo 9999 99:99:99 GMT", "-5", "1e99", "Mon, 01 Jan 0001 00:00:00 +2359"])
def test_an_invalid_retry_after_is_ignored(date: str) -> None:
    headers = Message()
    headers["Retry-After"] = date
    assert retry_after(headers) in (None, 0.0)


def test_a_size_of_5000_digits_is_refused(get: Downloader) -> None:
    get.server.redirects = False
    get.server.head_faults = [replace_body(b"GGUF", Content_Length="9" * 5000)]
    with pytest.raises(InstallError, match="does not send the length of the file"):
        get()


def test_without_a_digest_from_the_hub_sha256_is_required(get: Downloader) -> None:
    get.server.digests[NAME] = None
    with pytest.raises(InstallError, match="does not send the SHA-256") as error:
        get()
    assert "--sha256" in error.value.hint
