"""Tokens and text: types, decoders and the methods of the client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, List, Literal, Sequence, Union, overload

from ...errors import ProtocolError
from .decode import expect_object, get, integers, objects
from .transport import OWN, Routes, Timeout

Text = Union[str, Sequence[Union[int, str]]]


@dataclass
class TokenPiece:
    """A token and its text: `piece` is bytes where these alone are not valid UTF-8."""

    id: int
    piece: Union[str, bytes]


def decode_pieces(value: Any) -> List[TokenPiece]:
    items = objects(expect_object(value), "tokens")
    try:
        pieces = [p if isinstance(p := item.get("piece"), str) else bytes(integers(item, "piece")) for item in items]
    except ValueError:
        raise ProtocolError("expected the bytes of a token as numbers from 0 to 255") from None
    return [TokenPiece(get(item, "id", 0), piece) for item, piece in zip(items, pieces)]


class TokenRoutes(Routes):
    """The part of `LlamaCppClient` that turns text into tokens and back."""

    @overload
    def tokenize(
        self,
        text: Text,
        *,
        add_special: bool = ...,
        parse_special: bool = ...,
        with_pieces: Literal[False] = ...,
        timeout: Timeout = ...,
    ) -> List[int]: ...

    @overload
    def tokenize(
        self,
        text: Text,
        *,
        add_special: bool = ...,
        parse_special: bool = ...,
        with_pieces: Literal[True],
        timeout: Timeout = ...,
    ) -> List[TokenPiece]: ...

    def tokenize(
        self,
        text: Text,
        *,
        add_special: bool = False,
        parse_special: bool = True,
        with_pieces: bool = False,
        timeout: Timeout = OWN,
    ) -> Union[List[int], List[TokenPiece]]:
        """Return the tokens of a text.

        Args:
            text: any text; no chat template is applied. A list may mix texts and tokens.
            add_special: add the special tokens that the model expects, such as BOS; False by default.
            parse_special: read `<|im_start|>` and the like as the special tokens that they name; True by default.
            with_pieces: return each token together with its text; False by default.

        Example:
            >>> client.tokenize("Hello world", with_pieces=True)
            [TokenPiece(id=19556, piece='Hello'), TokenPiece(id=905, piece=' world')]
        """
        body = {"content": text, "add_special": add_special, "parse_special": parse_special, "with_pieces": with_pieces}
        reply = expect_object(self._post("/tokenize", timeout, body))
        return decode_pieces(reply) if with_pieces else integers(reply, "tokens")

    def detokenize(self, tokens: Sequence[int], *, timeout: Timeout = OWN) -> str:
        """Return the text of tokens."""
        return get(expect_object(self._post("/detokenize", timeout, {"tokens": list(tokens)})), "content", "")
