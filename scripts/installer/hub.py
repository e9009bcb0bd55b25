"""HTTP towards a model hub: the token goes to the hub alone, redirects are followed with care, errors are sorted.

The hub's protocol, as far as used: `/OWNER/REPO/resolve/REVISION/FILE` answers with a redirect to a CDN, and the
redirect carries the file's SHA-256 in `X-Linked-Etag`.
"""

from __future__ import annotations

import email.utils
import http.client
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, replace
from email.message import Message
from typing import IO, Any, Optional
from urllib.parse import urlsplit

from .catalogue import RemoteFile
from .errors import EXIT_TEMPORARY, EXIT_USAGE, InstallError
from .gguf import HEAD_BYTES, MAGIC
from .source import is_private_channel

PUBLIC_ENDPOINT = "https://huggingface.co"
SILENCE_SECONDS = 60.0  # no byte for so long: the connection is given up and the download goes on with a new one
_TEMPORARY_STATUS = {408, 425, 429, 500, 502, 503, 504}


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
    """The hub that `HF_ENDPOINT` and `HF_TOKEN` in `environ` name; the public one, without a token, by default."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.endpoint = (environ.get("HF_ENDPOINT") or PUBLIC_ENDPOINT).rstrip("/")
        parts = urlsplit(self.endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InstallError(f"HF_ENDPOINT={self.endpoint}: write https://HOST", status=EXIT_USAGE)
        self._token = environ.get("HF_TOKEN", "").strip()
        if not (self._token.isascii() and self._token.isprintable()) or " " in self._token:
            raise InstallError("HF_TOKEN: a token has no blanks, control or non-ASCII characters", status=EXIT_USAGE)
        if self._token and not is_private_channel(self.endpoint):
            raise InstallError(f"HF_TOKEN is not sent in clear to {self.endpoint}: use https", status=EXIT_USAGE)

    def is_here(self, url: str) -> bool:
        """Whether an address is the hub's own (same scheme, host and port)."""
        return _origin(url) == _origin(self.endpoint)

    def open(self, url: str, headers: Mapping[str, str]) -> tuple[http.client.HTTPResponse, Mapping[str, str]]:
        """A GET, redirects followed.

        Returns:
            The response, to be closed by the caller, and the headers of the hub's own answer.

        Raises:
            Temporary: worth another try.
            InstallError: not worth one.
        """
        redirects = _Redirects(self)
        opener = urllib.request.build_opener(redirects)
        try:
            response = opener.open(self.request(url, headers), timeout=SILENCE_SECONDS)
        except urllib.error.HTTPError as error:
            error.close()
            raise _sorted(error, url) from error
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

    def peek(self, file: RemoteFile) -> Peek:
        """The first KB of a file, its size, and its digest if the hub tells it.

        Raises:
            Temporary, InstallError: as `open`; also for a file that is not GGUF, or one without a length.
        """
        response, linked = self.open(file.url, {"Range": f"bytes=0-{HEAD_BYTES - 1}"})
        try:
            with response:
                head = response.read(HEAD_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise sorted_failure(error, file.url) from error
        if not head.startswith(MAGIC):
            raise InstallError(f"{file.url}: this is not a GGUF file (it does not begin with GGUF)")
        size = length_of(response)
        if size is None:
            raise InstallError(f"{file.url}: the server does not tell how long the file is")
        etag = re.fullmatch(r'"([0-9a-f]{64})"', {k.lower(): v for k, v in linked.items()}.get("x-linked-etag", ""))
        return Peek(head, size, etag[1] if etag else None)

    def describe(self, file: RemoteFile) -> tuple[RemoteFile, bytes]:
        """The file with its size and digest filled in, and its first KB."""
        peek = self.peek(file)
        digest = file.sha256 or peek.sha256
        if digest is None:
            raise InstallError(f"{file.url}: the server does not tell the file's digest", hint="Add --sha256 HEX")
        return replace(file, size=peek.size, sha256=digest), peek.head


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
        if urlsplit(req.full_url).scheme == "https" and urlsplit(newurl).scheme != "https":
            raise InstallError(f"{req.full_url}: redirected from https to {newurl}: refused")
        return self.hub.request(newurl.replace(" ", "%20"), req.headers)


def length_of(response: http.client.HTTPResponse) -> Optional[int]:
    """The length of the whole file in bytes: from Content-Range for a part, else Content-Length; None if not told."""
    if response.status == 206:
        text = (response.headers.get("Content-Range") or "").rpartition("/")[2]
    else:
        text = response.headers.get("Content-Length") or ""
    return int(text) if text.isascii() and text.isdigit() else None


def sorted_failure(error: Exception, url: str) -> Exception:
    """A failure on the way as Temporary, or as InstallError when trying again cannot help."""
    cause = getattr(error, "reason", error)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return InstallError(f"{url}: the certificate is not trusted: {cause.verify_message}")
    if isinstance(error, (ValueError, http.client.InvalidURL)):
        return InstallError(f"{url}: {error}")
    text = str(cause) or type(cause).__name__
    return Temporary(f"{urlsplit(url).netloc}: {text}")


def _sorted(error: urllib.error.HTTPError, url: str) -> Exception:
    if error.code in _TEMPORARY_STATUS:
        return Temporary(f"{urlsplit(url).netloc}: {error.code} {error.reason}", retry_after(error.headers))
    if error.code in (401, 403):
        hint = "Set HF_TOKEN to a token that may read it (a gated model's terms are accepted on its page)."
        return InstallError(f"{url}: {error.code} {error.reason}", hint=hint)
    if error.code == 404:
        return InstallError(f"{url}: there is no such file (404)")
    return InstallError(f"{url}: {error.code} {error.reason}", status=EXIT_TEMPORARY if error.code == 416 else 1)


def retry_after(headers: Message, now: Optional[float] = None) -> Optional[float]:
    """Seconds to wait by a Retry-After header, which holds seconds or a date (RFC 9110, 10.2.3); None without one."""
    text = (headers.get("Retry-After") or "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        date = email.utils.parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    return max(0.0, date.timestamp() - (time.time() if now is None else now))


def _origin(url: str) -> tuple[str, str, Optional[int]]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme)
