"""Images and recordings as the chat route takes them: from bytes, from a file, or by URL."""

from __future__ import annotations

import base64
import os

from ..errors import ConfigError
from .types import Audio, Image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Union

# The first bytes of each format, as llama.cpp's stb_image and miniaudio know them.
_IMAGES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
)


def encode_media(media: Union[Image, Audio]) -> Dict[str, Any]:
    """The part of a message's JSON for an image or a recording.

    Raises:
        ConfigError: the file cannot be read.
    """
    return _image_part(media) if isinstance(media, Image) else _audio_part(media)


def _image_part(image: Image) -> Dict[str, Any]:
    url = _url(image.source)
    if url is None:
        data = _bytes(image.source, "image")
        kind = next((kind for magic, kind in _IMAGES if data.startswith(magic)), None)
        if kind is None:
            kind = "image/webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else "application/octet-stream"
        url = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def _audio_part(audio: Audio) -> Dict[str, Any]:
    url = _url(audio.source)
    if url is not None:
        return {"type": "input_audio", "input_audio": {"url": url}}
    data = _bytes(audio.source, "recording")
    kind = "wav" if data[:4] == b"RIFF" and data[8:12] == b"WAVE" else "mp3"
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(data).decode(), "format": kind}}


def _url(source: Union[bytes, str, os.PathLike[str]]) -> Union[str, None]:
    is_url = isinstance(source, str) and source.lower().startswith(("http://", "https://", "data:"))
    return str(source) if is_url else None


def _bytes(source: Union[bytes, str, os.PathLike[str]], what: str) -> bytes:
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source)
    try:
        with open(source, "rb") as file:
            return file.read()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"cannot read the {what} {os.fspath(source)!r}: {reason}") from None
