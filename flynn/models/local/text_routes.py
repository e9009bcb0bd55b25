"""Routes that take text or tokens and have nothing of a chat: completion, infill, embeddings, ranking, tokens."""

from __future__ import annotations

from .decode import expect_object, get, integers
from .stream import CompletionStream
from .transport import OWN, Routes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, List, Literal, Mapping, Optional, Sequence, Union, overload

    from .completion import CompletionResponse, Prompts
    from .retrieval import Embeddings, Ranking
    from .server import TokenPiece

    Text = Union[str, Sequence[Union[int, str]]]


class TextRoutes(Routes):
    """The part of `LlamaCppClient` that works on plain text."""

    def complete(self, /, prompt: Prompts, *, timeout: Optional[float] = OWN, **options: Any) -> CompletionResponse:
        """Continue a text, in one piece. No chat template is applied.

        Args:
            prompt: a text, a list of tokens, a list of both, a mapping in the server's own form (`prompt_string`,
                `multimodal_data`), or a list of such prompts.
            options: fields of `ChatRequest`, without those of chat: `n_predict`, `temperature`, `stop`, `n_probs`, …

        Raises:
            TypeError: an option is none of the route's.

        Example:
            >>> client.complete("The sky is", n_predict=3).content
            ' blue today'
        """
        return self._completions("/completion", {"prompt": prompt}, options, timeout)

    def _completions(
        self, path: str, prompt: Mapping[str, Any], options: Mapping[str, Any], timeout: Optional[float]
    ) -> CompletionResponse:
        from .completion import decode_completions, encode_completion

        body = encode_completion(prompt, options, self.defaults)
        return decode_completions(self.transport.json("POST", path, body, timeout))

    def complete_stream(
        self,
        /,
        prompt: Prompts,
        *,
        timeout: Optional[float] = OWN,
        resume: Optional[bool] = None,
        resume_for: Optional[float] = None,
        **options: Any,
    ) -> CompletionStream:
        """Continue a text, piece by piece as it is generated. The request is sent when iteration begins.

        Args:
            prompt, options: as for `complete`.
            timeout, resume, resume_for: as for `chat_stream`.

        Returns:
            An iterator of events of the types `"content"`, `"progress"` and `"done"`; see `ServerStream`.
        """
        from .completion import CompletionStreamDecoder, count_completions, encode_completion
        from .encode import encode_json

        body = encode_completion({"prompt": prompt}, options, self.defaults, stream=True)
        transfer = self._transfer("/completion", encode_json(body), body.get("model"), timeout, resume, resume_for)
        progress = options.get("return_progress", self.defaults.get("return_progress"))
        return CompletionStream(transfer, CompletionStreamDecoder(count_completions(body), progress=bool(progress)))

    def infill(
        self,
        /,
        input_prefix: str,
        input_suffix: str,
        *,
        prompt: Optional[str] = None,
        input_extra: Optional[Sequence[Mapping[str, str]]] = None,
        timeout: Optional[float] = OWN,
        **options: Any,
    ) -> CompletionResponse:
        """Fill the gap between two pieces of code.

        Args:
            input_prefix: what is before the gap.
            input_suffix: what is after it.
            prompt: how the filling begins.
            input_extra: other files, each as `{"filename": …, "text": …}`.
            options: as for `complete`.

        Raises:
            NotSupportedError: the model was not made for it.

        Example:
            >>> client.infill("def add(a, b):\\n    return ", "\\n").content
            'a + b'
        """
        gap = {"input_prefix": input_prefix, "input_suffix": input_suffix, "prompt": prompt, "input_extra": input_extra}
        return self._completions("/infill", gap, options, timeout)

    def embed(
        self,
        /,
        input: Prompts,
        *,
        embd_normalize: Optional[int] = None,
        model: Optional[str] = None,
        extra: Optional[Mapping[str, Any]] = None,
        timeout: Optional[float] = OWN,
    ) -> Embeddings:
        """The embedding of each input. Wants a server started with `--embeddings`.

        Args:
            input: one or more texts or lists of tokens, as for `complete`.
            embd_normalize: the norm to divide by; 2: Euclidean, -1: none. By default the server's, which is 2.
            model: which one, where a server has several.
            extra: merged into the JSON, for what has no argument here.

        Returns:
            A sequence of lists of floats, one for each input; `numpy.asarray` of it copies nothing.

        Raises:
            NotSupportedError: the server was started without `--embeddings`.

        Example:
            >>> len(client.embed(["The sky is blue.", "Grass is green."])[0])
            576
        """
        from .retrieval import decode_embeddings

        # In base64 the numbers are a quarter as long, and need no reading digit by digit.
        body = {"input": input, "embd_normalize": embd_normalize, "model": model, "encoding_format": "base64"}
        return decode_embeddings(self._post("/v1/embeddings", timeout, body, extra))

    def embed_tokens(
        self,
        /,
        input: Prompts,
        *,
        model: Optional[str] = None,
        extra: Optional[Mapping[str, Any]] = None,
        timeout: Optional[float] = OWN,
    ) -> List[Embeddings]:
        """For each input the embeddings of its tokens. Wants a server started with `--embeddings --pooling none`.

        Example:
            >>> [tokens] = client.embed_tokens("The sky is blue.")
            >>> len(tokens), len(tokens[0])
            (5, 576)
        """
        from .retrieval import decode_token_embeddings

        return decode_token_embeddings(self._post("/embeddings", timeout, {"content": input, "model": model}, extra))

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
    ) -> Ranking:
        """Order documents by how well they fit a query. Wants a reranking model, and `--reranking`.

        Args:
            query: what is looked for.
            documents: texts.
            top_n: how many to return; by default all.
            model, extra: as for `embed`.

        Raises:
            NotSupportedError: the server was started without `--reranking`.
            TypeError: `documents` is a string.

        Example:
            >>> client.rerank("colour of grass", ["Grass is green.", "I sleep."]).results[0].index
            0
        """
        from .retrieval import decode_ranking

        if isinstance(documents, str):
            raise TypeError("documents is a sequence of strings, not a string")
        documents = list(documents)
        body = {"query": query, "documents": documents, "top_n": top_n, "model": model}
        return decode_ranking(self._post("/rerank", timeout, body, extra), documents)

    if TYPE_CHECKING:

        @overload
        def tokenize(
            self,
            text: Text,
            *,
            add_special: bool = ...,
            parse_special: bool = ...,
            with_pieces: Literal[False] = ...,
            timeout: Optional[float] = ...,
        ) -> List[int]: ...

        @overload
        def tokenize(
            self,
            text: Text,
            *,
            add_special: bool = ...,
            parse_special: bool = ...,
            with_pieces: Literal[True],
            timeout: Optional[float] = ...,
        ) -> List[TokenPiece]: ...

    def tokenize(
        self,
        text: Text,
        *,
        add_special: bool = False,
        parse_special: bool = True,
        with_pieces: bool = False,
        timeout: Optional[float] = OWN,
    ) -> Union[List[int], List[TokenPiece]]:
        """The tokens of a text.

        Args:
            text: any text; no chat template is applied. A list may mix texts and tokens.
            add_special: add what the model wants at the beginning, such as BOS.
            parse_special: take `<|im_start|>` and the like for the tokens that they name.
            with_pieces: return each token together with what it stands for.

        Example:
            >>> client.tokenize("Hello world", with_pieces=True)
            [TokenPiece(id=19556, piece='Hello'), TokenPiece(id=905, piece=' world')]
        """
        body = {"content": text, "add_special": add_special, "parse_special": parse_special, "with_pieces": with_pieces}
        reply = expect_object(self._post("/tokenize", timeout, body))
        if not with_pieces:
            return integers(reply, "tokens")
        from .server import decode_pieces

        return decode_pieces(reply)

    def detokenize(self, tokens: Sequence[int], *, timeout: Optional[float] = OWN) -> str:
        """The text of tokens."""
        return get(expect_object(self._post("/detokenize", timeout, {"tokens": list(tokens)})), "content", "")
