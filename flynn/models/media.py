"""Encodes images and recordings as JSON for the chat route: bytes, base64, a file or a URL."""

from __future__ import annotations

import base64
import os
from typing import Any, Dict, Union

from ..errors import FileError
from .types import Audio, Image

# The first bytes of each image format that llama.cpp's stb_image reads. WebP and WAV files begin with RIFF.
_IMAGES = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif", b"BM": "image/bmp"}
# The first bytes of all images and recordings.
_KNOWN = (*_IMAGES, b"RIFF", b"ID3", b"\xff\xfb", b"\xff\xf3")


def encode_media(media: Union[Image, Audio]) -> Dict[str, Any]:
    """Return the JSON part of a message for an image or a recording. Raises FileError if its file cannot be read."""
    is_image = isinstance(media, Image)
    part = "image_url" if is_image else "input_audio"
    return {"type": part, part: _content(media.source, is_image)}


def _content(source: Union[bytes, str, os.PathLike[str]], is_image: bool) -> Dict[str, str]:
    if isinstance(source, str) and source.lower().startswith(("http://", "https://", "data:")):
        return {"url": source}
    data = _read(source, "image" if is_image else "recording")
    riff_type = data[8:12] if data.startswith(b"RIFF") else b""
    encoded = base64.b64encode(data).decode()
    if not is_image:
        return {"data": encoded, "format": "wav" if riff_type == b"WAVE" else "mp3"}
    other = "image/webp" if riff_type == b"WEBP" else "application/octet-stream"
    media_type = next((media_type for start, media_type in _IMAGES.items() if data.startswith(start)), other)
    return {"url": f"data:{media_type};base64,{encoded}"}


def _read(source: Union[bytes, str, os.PathLike[str]], kind: str) -> bytes:
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source)
    try:
        with open(source, "rb") as file:
            return file.read()
    except (OSError, ValueError) as error:
        data = _decode_base64(source)
        if data.startswith(_KNOWN):
            return data
        reason = error.strerror if isinstance(error, OSError) else error
        name = os.fspath(source)
        shown = repr(name if len(name) <= 80 else f"{name[:77]}...")
        raise FileError(f"cannot read the {kind} {shown}: {reason}") from None


def _decode_base64(source: object) -> bytes:
    """Return the bytes of a base64 text; b"" if it is not one."""
    try:
        return base64.b64decode(source, validate=True) if isinstance(source, str) else b""
    except ValueError:
        return b""
