"""HTTP towards a model hub: the token goes to the hub alone, redirects are followed with care, errors are sorted.

The hub's protocol, as far as used: `/OWNER/REPO/resolve/REVISION/FILE` answers with a redirect to a CDN, and the
redirect carries the file's SHA-256 in `X-Linked-Etag`. What a repository holds is under `/api/models/`: see `listing`.
"""

from __future__ import annotations

import email.utils
import http.client
import os
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, replace
from email.message import Message
from pathlib import Path
from typing import IO, Any, Optional

from flynn.http.endpoint import is_loopback

from .address import is_private_channel, origin, split
from .catalogue import RemoteFile
from .errors import EXIT_TEMPORARY, EXIT_USAGE, InstallError
from .gguf import MAGIC

PUBLIC_ENDPOINT = "https://huggingface.co"
SILENCE_SECONDS = 60.0  # no byte for so long: the connection is given up and the download goes on with a new one
HEAD_BYTES = 16 * 1024
_TEMPORARY_STATUS = {408, 425, 429, 500, 502, 503, 504}
_MOST_JSON_BYTES = 16 * 1024 * 1024
_MOST_DIGITS = 18  # of a size or a number of seconds; more is no such number


class Temporary(Exception):
    """Worth another try, after `wait` seconds if the server said so."""

    def __init__(self, message: str, wait: Optional[float] = None) -> None:
        super().__init__(message)
        self.wait = wait


@dataclass(frozen=True)
class Peek:
    """The first bytes of a remote file, and what the server says about the whole of it."""

    head: bytes
    size: int
    sha256: Optional[str]


class Hub:
    """The hub that `HF_ENDPOINT` and `HF_TOKEN` in `environ` name; the public one by default.

    Without `HF_TOKEN` the token is the one that `hf auth login` has stored, if there is one.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.endpoint = (environ.get("HF_ENDPOINT") or PUBLIC_ENDPOINT).rstrip("/")
        parts = split(self.endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InstallError(f"HF_ENDPOINT={self.endpoint}: write https://HOST", status=EXIT_USAGE)
        private = is_private_channel(self.endpoint)
        self._token = _checked_token(environ.get("HF_TOKEN", ""), "HF_TOKEN")
        if self._token and not private:
            raise InstallError(f"HF_TOKEN is not sent in clear to {self.endpoint}: use https", status=EXIT_USAGE)
        if not self._token and private:
            self._token = _stored_token(environ)

    def is_here(self, url: str) -> bool:
        """Whether an address is the hub's own (same scheme, host and port)."""
        return origin(url) == origin(self.endpoint)

    def open(self, url: str, headers: Mapping[str, str]) -> tuple[http.client.HTTPResponse, Mapping[str, str]]:
        """A GET, redirects followed.

        Returns:
            The response, to be closed by the caller, and the headers of the hub's own answer.

        Raises:
            Temporary: worth another try.
            InstallError: not worth one.
        """
        redirects = _Redirects(self)
        opener = urllib.request.build_opener(redirects, _Proxies())
        try:
            response = opener.open(self.request(url, headers), timeout=SILENCE_SECONDS)
        except urllib.error.HTTPError as error:
            error.close()
            raise _sorted(error, url, has_token=bool(self._token)) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise sorted_failure(error, url) from error
        if self.is_here(response.url):
            redirects.linked.update(response.headers)
        return response, redirects.linked

    def request(self, url: str, headers: Mapping[str, str]) -> urllib.request.Request:
        request = urllib.request.Request(url, headers={"User-Agent": "flynn-install-service", **headers})
        if self._token and self.is_here(url):
            request.add_unredirected_header("Authorization", f"Bearer {self._token}")
        return request

    def read(self, url: str, headers: Mapping[str, str], most: int) -> tuple[http.client.HTTPResponse, bytes, Any]:
        """The closed response to a GET, at most so many bytes of its body, and the headers of the hub's own answer.

        Raises:
            Temporary, InstallError: as `open`.
        """
        response, linked = self.open(url, headers)
        try:
            with response:
                return response, response.read(most), linked
        except (OSError, http.client.HTTPException) as error:
            raise sorted_failure(error, url) from error

    def peek(self, file: RemoteFile, most: int = HEAD_BYTES) -> Peek:
        """The first bytes of a file, its size, and its digest if the hub tells it.

        Raises:
            Temporary, InstallError: as `open`; also for a file that is not GGUF, or one without a length.
        """
        response, head, linked = self.read(file.url, {"Range": f"bytes=0-{most - 1}"}, most)
        if not head.startswith(MAGIC):
            raise InstallError(f"{file.url}: this is not a GGUF file (it does not begin with GGUF)")
        size = length_of(response)
        if size is None:
            raise InstallError(f"{file.url}: the server does not tell how long the file is")
        etag = re.fullmatch(r'"([0-9a-f]{64})"', {k.lower(): v for k, v in linked.items()}.get("x-linked-etag", ""))
        return Peek(head, size, etag[1] if etag else None)

    def describe(self, file: RemoteFile) -> RemoteFile:
        """The file with its size and digest filled in."""
        if file.size is not None and file.sha256 is not None:
            return file
        peek = self.peek(file)
        digest = file.sha256 or peek.sha256
        if digest is None:
            raise InstallError(f"{file.url}: the server does not tell the file's digest", hint="Add --sha256 HEX")
        return replace(file, size=peek.size, sha256=digest)

    def json(self, path: str) -> bytes:
        """The body of the hub's answer at a path of its API."""
        return self.read(f"{self.endpoint}{path}", {"Accept": "application/json"}, _MOST_JSON_BYTES)[1]


class _Proxies(urllib.request.ProxyHandler):
    """The proxies of the environment, and none on the way to this machine, whatever `no_proxy` says."""

    def proxy_open(self, req: urllib.request.Request, proxy: str, type: str) -> Any:
        if is_loopback(split(req.full_url).hostname or ""):
            return None
        return super().proxy_open(req, proxy, type)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows 301, 302, 303, 307 and 308; keeps the hub's headers; sends the token nowhere else; never leaves https."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.linked: dict[str, str] = {}

    http_error_308 = urllib.request.HTTPRedirectHandler.http_error_302  # missing before Python 3.11

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request:
        if self.hub.is_here(req.full_url):
            self.linked.update(headers)
        if split(req.full_url).scheme == "https" and split(newurl).scheme != "https":
            raise InstallError(f"{req.full_url}: redirected from https to {newurl}: refused")
        return self.hub.request(newurl.replace(" ", "%20"), req.headers)


def _checked_token(token: str, source: str) -> str:
    token = token.strip()
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise InstallError(f"{source}: a token has no spaces, control or non-ASCII characters", status=EXIT_USAGE)
    return token


def _stored_token(environ: Mapping[str, str]) -> str:
    """What `hf auth login` has stored; empty if there is nothing that can be read."""
    cache = environ.get("XDG_CACHE_HOME") or os.path.join(environ.get("HOME") or os.path.expanduser("~"), ".cache")
    home = environ.get("HF_HOME") or os.path.join(cache, "huggingface")
    path = Path(environ.get("HF_TOKEN_PATH") or os.path.join(home, "token"))
    try:
        return _checked_token(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError):
        return ""


def length_of(response: http.client.HTTPResponse) -> Optional[int]:
    """The length of the whole file in bytes: from Content-Range for a part, else Content-Length; None if not told."""
    if response.status == 206:
        text = (response.headers.get("Content-Range") or "").rpartition("/")[2]
    else:
        text = response.headers.get("Content-Length") or ""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS else None


def sorted_failure(error: Exception, url: str) -> Exception:
    """A failure on the way as Temporary, or as InstallError when trying again cannot help."""
    cause = getattr(error, "reason", error)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return InstallError(f"{url}: the certificate is not trusted: {cause.verify_message}")
    if isinstance(error, (ValueError, http.client.InvalidURL)):
        return InstallError(f"{url}: {error}")
    text = str(cause) or type(cause).__name__
    return Temporary(f"{split(url).netloc}: {text}")


def _sorted(error: urllib.error.HTTPError, url: str, *, has_token: bool) -> Exception:
    """What an error of the hub means. It says why in X-Error-Code: 401 may also be a repository that is not there."""
    if error.code in _TEMPORARY_STATUS:
        return Temporary(f"{split(url).netloc}: {error.code} {error.reason}", retry_after(error.headers))
    code = error.headers.get("X-Error-Code") or ""
    if code == "GatedRepo":
        return InstallError(
            f"{url}: {error.code}: its owner lets only those in who have agreed to the terms", hint=_GATED
        )
    if code == "RepoNotFound" or (code == "" and error.code == 401 and not has_token):
        hint = "Look at its name. If it is private, or has terms to be agreed to: set HF_TOKEN, or run hf auth login."
        return InstallError(f"{url}: {error.code}: there is no such repository, or it is not public", hint=hint)
    if code == "RevisionNotFound":
        return InstallError(f"{url}: the repository has no such revision ({error.code})")
    if error.code == 404:
        return InstallError(f"{url}: there is no such file (404)")
    if error.code in (401, 403):
        return InstallError(f"{url}: {error.code} {error.reason}: this token may not read it", hint=_GATED)
    return InstallError(f"{url}: {error.code} {error.reason}", status=EXIT_TEMPORARY if error.code == 416 else 1)


_GATED = "Agree to the terms on the model's page, then set HF_TOKEN to a token that may read it, or run hf auth login."


def retry_after(headers: Message, now: Optional[float] = None) -> Optional[float]:
    """Seconds to wait by a Retry-After header, which holds seconds or a date (RFC 9110, 10.2.3); None without one."""
    text = (headers.get("Retry-After") or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:_MOST_DIGITS])
    try:
        seconds = email.utils.parsedate_to_datetime(text).timestamp()
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
    return max(0.0, seconds - (time.time() if now is None else now))
