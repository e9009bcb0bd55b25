"""Images and recordings to the JSON of the chat route: from bytes, base64, a file, or a URL."""

from __future__ import annotations

import base64
import os
from typing import Any, Dict, Optional, Union

from ..errors import FileError
from .types import Audio, Image

# The first bytes of each format, as llama.cpp's stb_image and miniaudio know them.
_IMAGES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
)


def encode_media(media: Union[Image, Audio]) -> Dict[str, Any]:
    """Return the JSON part of a message for an image or a recording.

    Raises:
        FileError: the file cannot be read.
    """
    source, is_image = media.source, isinstance(media, Image)
    if isinstance(source, str) and source.lower().startswith(("http://", "https://", "data:")):
        return _part(is_image, {"url": source})
    data = _bytes(source, "image" if is_image else "recording")
    kind = data[8:12] if data.startswith(b"RIFF") else b""
    encoded = base64.b64encode(data).decode()
    if not is_image:
        return _part(is_image, {"data": encoded, "format": "wav" if kind == b"WAVE" else "mp3"})
    unknown = "image/webp" if kind == b"WEBP" else "application/octet-stream"
    mime = next((mime for magic, mime in _IMAGES if data.startswith(magic)), unknown)
    return _part(is_image, {"url": f"data:{mime};base64,{encoded}"})


def _part(is_image: bool, content: Dict[str, str]) -> Dict[str, Any]:
    kind = "image_url" if is_image else "input_audio"
    return {"type": kind, kind: content}


def _bytes(source: Union[bytes, str, os.PathLike[str]], what: str) -> bytes:
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source)
    try:
        with open(source, "rb") as file:
            return file.read()
    except (OSError, ValueError) as error:
        data = _from_base64(source)
        if data is not None:
            return data
        reason = error.strerror if isinstance(error, OSError) else error
        name = os.fspath(source)
        shown = repr(name if len(name) <= 80 else f"{name[:77]}...")
        raise FileError(f"cannot read the {what} {shown}: {reason}") from None


def _from_base64(source: object) -> Optional[bytes]:
    """Return the bytes in a base64 text, if they begin like an image or a recording."""
    try:
        data = base64.b64decode(source if isinstance(source, str) else "", validate=True)
    except ValueError:
        return None
    known = (*(magic for magic, _ in _IMAGES), b"RIFF", b"ID3", b"\xff\xfb", b"\xff\xf3")
    return data if data.startswith(known) else None
