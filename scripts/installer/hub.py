"""HTTP client for a model hub: sends the token only to the hub, checks redirects, and classifies errors.

The part of the hub's protocol used here: `/OWNER/REPO/resolve/REVISION/FILE` answers with a redirect to a CDN; the
redirect has the file's SHA-256 in `X-Linked-Etag`. `/api/models/` lists the files of a repository: see `listing`.
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
SILENCE_SECONDS = 60.0  # without a byte; then the download resumes on a new connection
HEAD_BYTES = 16 * 1024
_TEMPORARY_STATUS = {408, 425, 429, 500, 502, 503, 504}
_MAX_JSON_BYTES = 16 * 1024 * 1024
_MAX_DIGITS = 18  # in a size or a number of seconds; limits what a server can make int() parse
_GATED_HINT = (
    "Agree to the terms on the model's page, then set HF_TOKEN to a token with read access, or run: hf auth login"
)


class TemporaryError(Exception):
    """A failure that a retry may fix. `wait`: seconds from the server's Retry-After, None without one."""

    def __init__(self, message: str, wait: Optional[float] = None) -> None:
        super().__init__(message)
        self.wait = wait


@dataclass(frozen=True)
class Peek:
    """The first bytes of a remote file, its size in bytes, and its SHA-256 if the server sent it."""

    head: bytes
    size: int
    sha256: Optional[str]


class Hub:
    """The model hub.

    Args:
        environ: `HF_ENDPOINT` is the hub's URL (the public hub by default). `HF_TOKEN` is the token; by default the
            one stored by `hf auth login`, if there is one.

    Raises:
        InstallError: the URL or the token is invalid, or the token would be sent unencrypted.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.endpoint = (environ.get("HF_ENDPOINT") or PUBLIC_ENDPOINT).rstrip("/")
        parts = split(self.endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InstallError(f"HF_ENDPOINT={self.endpoint}: must be https://HOST", status=EXIT_USAGE)
        private = is_private_channel(self.endpoint)
        self._token = _checked_token(environ.get("HF_TOKEN", ""), "HF_TOKEN")
        if self._token and not private:
            raise InstallError(f"HF_TOKEN would be sent unencrypted to {self.endpoint}: use https", status=EXIT_USAGE)
        if not self._token and private:
            self._token = _stored_token(environ)

    def is_on_hub(self, url: str) -> bool:
        """Return True if the URL is on the hub: same scheme, host and port."""
        return origin(url) == origin(self.endpoint)

    def open(self, url: str, headers: Mapping[str, str]) -> tuple[http.client.HTTPResponse, Mapping[str, str]]:
        """Send a GET and follow redirects.

        Returns:
            The response, which the caller has to close, and the headers of the hub's own response.

        Raises:
            TemporaryError: a retry may help.
            InstallError: a retry cannot help.
        """
        redirects = _Redirects(self)
        opener = urllib.request.build_opener(redirects, _Proxies())
        try:
            response = opener.open(self.request(url, headers), timeout=SILENCE_SECONDS)
        except urllib.error.HTTPError as error:
            error.close()
            raise _http_failure(error, url, has_token=bool(self._token)) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise connection_failure(error, url) from error
        if self.is_on_hub(response.url):
            redirects.hub_headers.update(response.headers)
        return response, redirects.hub_headers

    def request(self, url: str, headers: Mapping[str, str]) -> urllib.request.Request:
        """Build a GET request; add the token if the URL is on the hub."""
        request = urllib.request.Request(url, headers={"User-Agent": "flynn-install-service", **headers})
        if self._token and self.is_on_hub(url):
            request.add_unredirected_header("Authorization", f"Bearer {self._token}")
        return request

    def read(self, url: str, headers: Mapping[str, str], limit: int) -> tuple[http.client.HTTPResponse, bytes, Any]:
        """Send a GET and read at most `limit` bytes of the body.

        Returns:
            The closed response, the bytes, and the headers of the hub's own response.

        Raises:
            TemporaryError, InstallError: as `open`.
        """
        response, hub_headers = self.open(url, headers)
        try:
            with response:
                return response, response.read(limit), hub_headers
        except (OSError, http.client.HTTPException) as error:
            raise connection_failure(error, url) from error

    def peek(self, file: RemoteFile, limit: int = HEAD_BYTES) -> Peek:
        """Read the first `limit` bytes of a GGUF file.

        Raises:
            TemporaryError, InstallError: as `open`; also if the file is not GGUF, or the server sends no length.
        """
        response, head, hub_headers = self.read(file.url, {"Range": f"bytes=0-{limit - 1}"}, limit)
        if not head.startswith(MAGIC):
            raise InstallError(f"{file.url}: not a GGUF file (does not start with GGUF)")
        size = length_of(response)
        if size is None:
            raise InstallError(f"{file.url}: the server does not send the length of the file")
        linked_etag = next((value for name, value in hub_headers.items() if name.lower() == "x-linked-etag"), "")
        match = re.fullmatch(r'"([0-9a-f]{64})"', linked_etag)
        return Peek(head, size, match[1] if match else None)

    def describe(self, file: RemoteFile) -> RemoteFile:
        """Return the file with size and digest; ask the server for missing ones.

        Raises:
            TemporaryError, InstallError: as `peek`; also if the digest is unknown.
        """
        if file.size is not None and file.sha256 is not None:
            return file
        peek = self.peek(file)
        digest = file.sha256 or peek.sha256
        if digest is None:
            raise InstallError(
                f"{file.url}: the server does not send the SHA-256 of the file", hint="Add --sha256 HEX."
            )
        return replace(file, size=peek.size, sha256=digest)

    def json(self, path: str) -> bytes:
        """Return the response body of a GET at a path of the hub's API."""
        return self.read(f"{self.endpoint}{path}", {"Accept": "application/json"}, _MAX_JSON_BYTES)[1]


class _Proxies(urllib.request.ProxyHandler):
    """Use the proxies of the environment, but never for a loopback address, even if `no_proxy` is not set."""

    def proxy_open(self, req: urllib.request.Request, proxy: str, type: str) -> Any:
        if is_loopback(split(req.full_url).hostname or ""):
            return None
        return super().proxy_open(req, proxy, type)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects: keep the hub's headers, send the token only to the hub, refuse to go from https to http."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.hub_headers: dict[str, str] = {}

    http_error_308 = urllib.request.HTTPRedirectHandler.http_error_302  # missing before Python 3.11

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request:
        if self.hub.is_on_hub(req.full_url):
            self.hub_headers.update(headers)
        if split(req.full_url).scheme == "https" and split(newurl).scheme != "https":
            raise InstallError(f"{req.full_url}: refusing a redirect from https to {newurl}")
        return self.hub.request(newurl.replace(" ", "%20"), req.headers)


def _checked_token(token: str, source: str) -> str:
    token = token.strip()
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise InstallError(f"{source}: the token must be printable ASCII without spaces", status=EXIT_USAGE)
    return token


def _stored_token(environ: Mapping[str, str]) -> str:
    """Return the token that `hf auth login` stored; '' if there is none or it cannot be read."""
    cache = environ.get("XDG_CACHE_HOME") or os.path.join(environ.get("HOME") or os.path.expanduser("~"), ".cache")
    home = environ.get("HF_HOME") or os.path.join(cache, "huggingface")
    path = Path(environ.get("HF_TOKEN_PATH") or os.path.join(home, "token"))
    try:
        return _checked_token(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError):
        return ""


def length_of(response: http.client.HTTPResponse) -> Optional[int]:
    """Return the bytes of the whole file, from Content-Range for a 206, else from Content-Length; None if unknown."""
    if response.status == 206:
        text = (response.headers.get("Content-Range") or "").rpartition("/")[2]
    else:
        text = response.headers.get("Content-Length") or ""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS else None


def connection_failure(error: Exception, url: str) -> Exception:
    """Convert a connection error into TemporaryError, or into InstallError if a retry cannot help."""
    cause = getattr(error, "reason", error)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return InstallError(f"{url}: the TLS certificate is not trusted: {cause.verify_message}")
    if isinstance(error, (ValueError, http.client.InvalidURL)):
        return InstallError(f"{url}: {error}")
    text = str(cause) or type(cause).__name__
    return TemporaryError(f"{split(url).netloc}: {text}")


def _http_failure(error: urllib.error.HTTPError, url: str, *, has_token: bool) -> Exception:
    """Convert an HTTP error. The hub puts the reason into X-Error-Code: a 401 may also mean a missing repository."""
    if error.code in _TEMPORARY_STATUS:
        return TemporaryError(f"{split(url).netloc}: {error.code} {error.reason}", retry_after(error.headers))
    code = error.headers.get("X-Error-Code") or ""
    if code == "GatedRepo":
        return InstallError(
            f"{url}: {error.code}: the repository is gated: its owner requires agreement to terms", hint=_GATED_HINT
        )
    if code == "RepoNotFound" or (code == "" and error.code == 401 and not has_token):
        hint = "Check the name. If the repository is private or gated, set HF_TOKEN, or run: hf auth login"
        return InstallError(f"{url}: {error.code}: the repository does not exist or is not public", hint=hint)
    if code == "RevisionNotFound":
        return InstallError(f"{url}: {error.code}: the revision does not exist")
    if error.code == 404:
        return InstallError(f"{url}: 404: the file does not exist")
    if error.code in (401, 403):
        return InstallError(f"{url}: {error.code} {error.reason}: this token has no read access", hint=_GATED_HINT)
    return InstallError(f"{url}: {error.code} {error.reason}", status=EXIT_TEMPORARY if error.code == 416 else 1)


def retry_after(headers: Message, now: Optional[float] = None) -> Optional[float]:
    """Return the seconds of a Retry-After header, None without one. It holds seconds or a date (RFC 9110, 10.2.3)."""
    text = (headers.get("Retry-After") or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:_MAX_DIGITS])
    try:
        seconds = email.utils.parsedate_to_datetime(text).timestamp()
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
    return max(0.0, seconds - (time.time() if now is None else now))
