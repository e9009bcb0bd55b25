"""The content of a message: text, parts, images and audio; invalid content."""

from __future__ import annotations

from typing import Any

import pytest
from answers import always, reply, sent
from pytest_httpserver import HTTPServer
from scripted import CHAT

from flynn import Audio, FileError, Image, LlamaCppClient, Message


def test_a_single_part_is_sent_as_a_list_of_parts(httpserver: HTTPServer, endpoint: str) -> None:
    part = {"type": "text", "text": "Hi"}
    always(httpserver, reply(CHAT))
    LlamaCppClient(endpoint).chat([{"role": "user", "content": part}])
    assert sent(httpserver)[0].json["messages"] == [{"role": "user", "content": [part]}]


@pytest.mark.parametrize("content", [123, 1.5, b"Hi", bytearray(b"Hi"), object(), [1], ["a", b"b"], [None], [["a"]]])
def test_invalid_content_is_a_type_error_that_names_the_message(endpoint: str, content: Any) -> None:
    for message in (Message("user", content), {"role": "user", "content": content}):
        with pytest.raises(TypeError, match="^message 2: .*content.* must be"):
            LlamaCppClient(endpoint).chat([Message("system", "x"), message])


PNG = b"\x89PNG\r\n\x1a\n" + b"x" * 360_000


def test_a_base64_image_is_sent_like_its_bytes(httpserver: HTTPServer, endpoint: str) -> None:
    import base64

    always(httpserver, reply(CHAT))
    LlamaCppClient(endpoint).chat([Message("user", [Image(base64.b64encode(PNG).decode()), Image(PNG)])])
    one, other = sent(httpserver)[0].json["messages"][0]["content"]
    assert one == other
    assert one["image_url"]["url"].startswith("data:image/png;base64,")


@pytest.mark.parametrize("kind", [Image, Audio])
@pytest.mark.parametrize("source", ["x" * 480_000, "AAAA" * 100, "no/such/file.png"])
def test_the_error_of_a_missing_file_is_one_short_line(endpoint: str, kind: Any, source: str) -> None:
    with pytest.raises(FileError) as caught:
        LlamaCppClient(endpoint).chat([Message("user", [kind(source)])])
    assert len(str(caught.value)) < 200
    assert "\n" not in str(caught.value)
