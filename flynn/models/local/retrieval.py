"""Embeddings and rankings: types, decoders and the methods of the client."""

from __future__ import annotations

import base64
import struct
from dataclasses import dataclass, field
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence

from ...errors import ProtocolError
from ..types import Usage
from .decode import decode_usage, expect_object, get, number, objects
from .text import Prompts
from .transport import OWN, Headers, Routes, Timeout


@dataclass
class Embeddings:
    """A sequence of vectors: `embeddings[i]` is a list of floats.

    `numpy.asarray(embeddings)`, of shape `(len(embeddings), dimensions)`, shares its memory: nothing is copied.

    Attributes:
        data: 32-bit floats in little-endian order, vector after vector.
        dimensions: numbers in a vector.
        usage: token counts; None if the server sent none.
        model: the model that computed them.
        raw: the server's JSON, untouched.
    """

    data: bytearray = field(repr=False)
    dimensions: int
    usage: Optional[Usage] = None
    model: str = ""
    raw: Any = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.data) // (4 * self.dimensions) if self.dimensions else 0

    def __getitem__(self, index: int) -> List[float]:
        place = range(len(self))[index]
        return list(struct.unpack_from(f"<{self.dimensions}f", self.data, 4 * self.dimensions * place))

    def __iter__(self) -> Iterator[List[float]]:
        return map(self.__getitem__, range(len(self)))

    @property
    def __array_interface__(self) -> Dict[str, Any]:
        """Describes the memory to NumPy: https://numpy.org/doc/stable/reference/arrays.interface.html"""
        return {"version": 3, "shape": (len(self), self.dimensions), "typestr": "<f4", "data": self.data}


@dataclass
class RankedDocument:
    """A document, its index in `documents`, and its score for relevance to the query: higher is better."""

    index: int
    score: float
    document: str


@dataclass
class Ranking:
    """Documents with their scores, the most relevant first.

    Attributes:
        usage: token counts; None if the server sent none.
        model: the model that scored them.
        raw: the server's JSON, untouched.
    """

    results: Sequence[RankedDocument]
    usage: Optional[Usage] = None
    model: str = ""
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)


def decode_embeddings(value: Any) -> Embeddings:
    """Return the reply of `/v1/embeddings`, in either of its encodings."""
    raw = expect_object(value)
    items = sorted(objects(raw, "data"), key=lambda item: get(item, "index", 0))
    return _embeddings([_vector(item.get("embedding")) for item in items], decode_usage(raw), raw)


def decode_token_embeddings(value: Any) -> List[Embeddings]:
    """Return the reply of `/embeddings`: several vectors for each input."""
    items = sorted(objects({"response": value}, "response"), key=lambda item: get(item, "index", 0))
    vectors: Iterator[List[Any]] = (get(item, "embedding", []) for item in items)
    return [_embeddings([*map(_vector, several)], None, item) for several, item in zip(vectors, items)]


def _embeddings(vectors: Sequence[bytes], usage: Optional[Usage], raw: Mapping[str, Any]) -> Embeddings:
    size = len(vectors[0]) if vectors else 1
    if size % 4 or any(len(vector) != size for vector in vectors):
        raise ProtocolError("expected embeddings of one length, in whole numbers of 4 bytes")
    return Embeddings(bytearray().join(vectors), size // 4, usage, get(raw, "model", ""), raw)


def _vector(value: Any) -> bytes:
    try:
        if isinstance(value, str):
            return base64.b64decode(value, validate=True)
        if isinstance(value, list):
            return struct.pack(f"<{len(value)}f", *value)
    except (ValueError, struct.error, OverflowError):
        pass
    raise ProtocolError("expected an embedding as a list of numbers or in base64")


def decode_ranking(value: Any, documents: Sequence[str]) -> Ranking:
    """Return the reply of `/rerank`."""
    raw = expect_object(value)
    results = []
    for item in objects(raw, "results"):
        index, score = get(item, "index", -1), number(item, "relevance_score")
        if not 0 <= index < len(documents) or score is None:
            raise ProtocolError(f"expected the index of one of {len(documents)} documents and its score")
        results.append(RankedDocument(index, score, documents[index]))
    return Ranking(tuple(results), decode_usage(raw), get(raw, "model", ""), raw)


class RetrievalRoutes(Routes):
    """The part of `LlamaCppClient` for embedding and reranking models."""

    def embed(
        self,
        input: Prompts,
        *,
        embd_normalize: Optional[int] = None,
        model: Optional[str] = None,
        extra: Optional[Mapping[str, Any]] = None,
        timeout: Timeout = OWN,
        headers: Headers = None,
    ) -> Embeddings:
        """Return the embedding of each input. Raises NotSupportedError if the server lacks `--embeddings`.

        Args:
            input: one or more texts or lists of tokens, as for `complete`.
            embd_normalize: the norm to divide by: 2 is Euclidean, -1 none; by default the server's, 2.
            model: the model, on a server with several.
            extra: merged into the JSON, for fields that have no argument here.
            headers: as for `chat`.

        Example:
            >>> len(client.embed(["The sky is blue.", "Grass is green."])[0])
            576
        """
        # In base64 the numbers take a quarter of the bytes, and no parsing of digits.
        body = {"input": input, "embd_normalize": embd_normalize, "model": model, "encoding_format": "base64"}
        return decode_embeddings(self._post("/v1/embeddings", timeout, body, extra, headers))

    def embed_tokens(
        self,
        input: Prompts,
        *,
        model: Optional[str] = None,
        extra: Optional[Mapping[str, Any]] = None,
        timeout: Timeout = OWN,
        headers: Headers = None,
    ) -> List[Embeddings]:
        """Return the embeddings of each input's tokens. Needs a server started with `--embeddings --pooling none`.

        Example:
            >>> [tokens] = client.embed_tokens("The sky is blue.")
            >>> len(tokens), len(tokens[0])
            (5, 576)
        """
        body = {"content": input, "model": model}
        return decode_token_embeddings(self._post("/embeddings", timeout, body, extra, headers))

    def rerank(
        self,
        query: str,
        documents: Sequence[str],
        *,
        top_n: Optional[int] = None,
        model: Optional[str] = None,
        extra: Optional[Mapping[str, Any]] = None,
        timeout: Timeout = OWN,
        headers: Headers = None,
    ) -> Ranking:
        """Rank documents by their relevance to a query. Raises NotSupportedError if the server lacks `--reranking`.

        Args:
            query, documents: the text to compare with, and the texts to rank: one string is a TypeError.
            top_n: how many to return; all by default.
            model, extra, headers: as for `embed`.

        Example:
            >>> client.rerank("colour of grass", ["Grass is green.", "I sleep."]).results[0].index
            0
        """
        if isinstance(documents, str):
            raise TypeError("documents is a sequence of strings, not a string")
        documents = list(documents)
        body = {"query": query, "documents": documents, "top_n": top_n, "model": model}
        return decode_ranking(self._post("/rerank", timeout, body, extra, headers), documents)
