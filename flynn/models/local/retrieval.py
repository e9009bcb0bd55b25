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
from .transport import OWN, Routes


@dataclass
class Embeddings:
    """Vectors, one after the other: `len(embeddings)` of them, and each `embeddings[i]` a list of floats.

    `numpy.asarray(embeddings)`, of the shape `(len(embeddings), dimensions)`, shares their memory: nothing is copied.

    Attributes:
        data: the numbers, 32-bit floats in little-endian order, vector after vector.
        dimensions: numbers in a vector.
        usage: tokens that they cost; None if the server did not say.
        model: the model that made them.
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
        """How NumPy is told of the memory: https://numpy.org/doc/stable/reference/arrays.interface.html"""
        return {"version": 3, "shape": (len(self), self.dimensions), "typestr": "<f4", "data": self.data}


@dataclass
class RankedDocument:
    """A document and how well it fits the query.

    Attributes:
        index: its place among the documents that were asked about.
        score: the model's; higher is better.
        document: its text.
    """

    index: int
    score: float
    document: str


@dataclass
class Ranking:
    """Documents, the best one first.

    Attributes:
        results: the documents with their scores.
        usage: tokens that it cost; None if the server did not say.
        model: the model that judged.
        raw: the server's JSON, untouched.
    """

    results: Sequence[RankedDocument]
    usage: Optional[Usage] = None
    model: str = ""
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)


def decode_embeddings(value: Any) -> Embeddings:
    """What `/v1/embeddings` answers, in either of its encodings."""
    raw = expect_object(value)
    items = sorted(objects(raw, "data"), key=lambda item: get(item, "index", 0))
    return _embeddings([_vector(item.get("embedding")) for item in items], decode_usage(raw), raw)


def decode_token_embeddings(value: Any) -> List[Embeddings]:
    """What `/embeddings` answers: vectors for each input."""
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
    """What `/rerank` answers about documents."""
    raw = expect_object(value)
    results = []
    for item in objects(raw, "results"):
        index, score = get(item, "index", -1), number(item, "relevance_score")
        if not 0 <= index < len(documents) or score is None:
            raise ProtocolError(f"expected the index of one of {len(documents)} documents and its score")
        results.append(RankedDocument(index, score, documents[index]))
    return Ranking(tuple(results), decode_usage(raw), get(raw, "model", ""), raw)


class RetrievalRoutes(Routes):
    """The part of `LlamaCppClient` for models that embed and rank."""

    def embed(
        self,
        /,
        input: Prompts,
        *,
        embd_normalize: Optional[int] = None,
        model: Optional[str] = None,
        extra: Optional[Mapping[str, Any]] = None,
        timeout: Optional[float] = OWN,
        headers: Optional[Mapping[str, str]] = None,
    ) -> Embeddings:
        """The embedding of each input. Wants a server started with `--embeddings`.

        Args:
            input: one or more texts or lists of tokens, as for `complete`.
            embd_normalize: the norm to divide by; 2: Euclidean, -1: none. By default the server's, which is 2.
            model: which one, where a server has several.
            extra: merged into the JSON, for what has no argument here.
            headers: sent with this request besides the client's.

        Returns:
            A sequence of lists of floats, one for each input; `numpy.asarray` of it copies nothing.

        Raises:
            NotSupportedError: the server was started without `--embeddings`.

        Example:
            >>> len(client.embed(["The sky is blue.", "Grass is green."])[0])
            576
        """
        # In base64 the numbers are a quarter as long, and need no reading digit by digit.
        body = {"input": input, "embd_normalize": embd_normalize, "model": model, "encoding_format": "base64"}
        return decode_embeddings(self._post("/v1/embeddings", timeout, body, extra, headers))

    def embed_tokens(
        self,
        /,
        input: Prompts,
        *,
        model: Optional[str] = None,
        extra: Optional[Mapping[str, Any]] = None,
        timeout: Optional[float] = OWN,
        headers: Optional[Mapping[str, str]] = None,
    ) -> List[Embeddings]:
        """For each input the embeddings of its tokens. Wants a server started with `--embeddings --pooling none`.

        Example:
            >>> [tokens] = client.embed_tokens("The sky is blue.")
            >>> len(tokens), len(tokens[0])
            (5, 576)
        """
        body = {"content": input, "model": model}
        return decode_token_embeddings(self._post("/embeddings", timeout, body, extra, headers))

    def rerank(
        self,
        /,
        query: str,
        documents: Sequence[str],
        *,
        top_n: Optional[int] = None,
        model: Optional[str] = None,
        extra: Optional[Mapping[str, Any]] = None,
        timeout: Optional[float] = OWN,
        headers: Optional[Mapping[str, str]] = None,
    ) -> Ranking:
        """Order documents by how well they fit a query. Wants a reranking model, and `--reranking`.

        Args:
            query: what is looked for.
            documents: texts.
            top_n: how many to return; by default all.
            model, extra, headers: as for `embed`.

        Raises:
            NotSupportedError: the server was started without `--reranking`.
            TypeError: `documents` is a string.

        Example:
            >>> client.rerank("colour of grass", ["Grass is green.", "I sleep."]).results[0].index
            0
        """
        if isinstance(documents, str):
            raise TypeError("documents is a sequence of strings, not a string")
        documents = list(documents)
        body = {"query": query, "documents": documents, "top_n": top_n, "model": model}
        return decode_ranking(self._post("/rerank", timeout, body, extra, headers), documents)
