"""The types of all results of both clients. Never run: mypy and basedpyright read this file in `make lint`."""

from __future__ import annotations

from typing import Any, AsyncIterator, Iterator, List, Mapping, Optional, Sequence, Union

from typing_extensions import assert_type

from flynn import (
    AsyncLlamaCppClient,
    ChatResponse,
    Completion,
    CompletionResponse,
    Embeddings,
    Health,
    LlamaCppClient,
    LoraAdapter,
    Metrics,
    ModelEvent,
    ModelInfo,
    Props,
    RankedDocument,
    Ranking,
    Slot,
    SlotFile,
    TokenPiece,
)
from flynn.models.local.text import CompletionEvent
from flynn.models.types import StreamEvent, Timings, Usage


def synchronous(client: LlamaCppClient) -> None:
    assert_type(client.chat("Hi", temperature=0.5), ChatResponse)
    assert_type(client.complete("Hi", n_predict=3), CompletionResponse)
    assert_type(client.complete([[1, 2, "Hi"], "Hi", {"prompt_string": "Hi"}]), CompletionResponse)
    assert_type(client.infill("a", "b", input_extra=[{"text": "c"}]), CompletionResponse)
    assert_type(client.embed(["a", [1, 2]], embd_normalize=-1), Embeddings)
    assert_type(client.embed_tokens("a"), List[Embeddings])
    assert_type(client.rerank("a", ["b"], top_n=1), Ranking)
    assert_type(client.tokenize("a"), List[int])
    assert_type(client.tokenize(["a", 1], with_pieces=False), List[int])
    assert_type(client.tokenize("a", with_pieces=True), List[TokenPiece])
    assert_type(client.detokenize([1]), str)
    assert_type(client.apply_template("Hi"), str)
    assert_type(client.count_tokens("Hi"), int)
    assert_type(client.end_reasoning("id"), bool)
    assert_type(client.health(), Health)
    assert_type(client.props(model="a"), Props)
    assert_type(client.models(), List[ModelInfo])
    assert_type(client.slots(), List[Slot])
    assert_type(client.save_slot(0, "a"), SlotFile)
    assert_type(client.restore_slot(0, "a"), SlotFile)
    assert_type(client.erase_slot(0), int)
    assert_type(client.lora_adapters(), List[LoraAdapter])
    assert_type(client.metrics(), Metrics)
    client.set_lora_adapters({0: 1.0})
    client.set_lora_adapters([{"id": 0, "scale": 1}])
    client.load_model("a", wait=False)
    client.unload_model("a")
    client.wait_until_ready(5)


def streams(client: LlamaCppClient) -> None:
    with client.chat_stream("Hi") as chat:
        for event in chat:
            assert_type(event, StreamEvent)
            if event.type == "content":
                assert_type(event.text, str)
    assert_type(chat.response, ChatResponse)
    assert_type(chat.text(), Iterator[str])
    with client.complete_stream("Hi", resume=True) as completion:
        for piece in completion:
            assert_type(piece, CompletionEvent)
            if piece.type == "done":
                assert_type(piece.response, CompletionResponse)
    assert_type(completion.response, CompletionResponse)
    assert_type(completion.resumes, int)
    assert_type(completion.text(), Iterator[str])
    with client.model_events() as events:
        for model_event in events:
            assert_type(model_event, ModelEvent)


async def asynchronous(client: AsyncLlamaCppClient) -> None:
    assert_type(await client.chat("Hi", temperature=0.5), ChatResponse)
    assert_type(await client.complete("Hi", n_predict=3), CompletionResponse)
    assert_type(await client.infill("a", "b"), CompletionResponse)
    assert_type(await client.embed(["a", [1, 2]]), Embeddings)
    assert_type(await client.embed_tokens("a"), List[Embeddings])
    assert_type(await client.rerank("a", ["b"]), Ranking)
    assert_type(await client.tokenize("a"), List[int])
    assert_type(await client.tokenize("a", with_pieces=True), List[TokenPiece])
    assert_type(await client.detokenize([1]), str)
    assert_type(await client.apply_template("Hi"), str)
    assert_type(await client.count_tokens("Hi"), int)
    assert_type(await client.end_reasoning("id"), bool)
    assert_type(await client.health(), Health)
    assert_type(await client.props(), Props)
    assert_type(await client.models(), List[ModelInfo])
    assert_type(await client.slots(), List[Slot])
    assert_type(await client.save_slot(0, "a"), SlotFile)
    assert_type(await client.restore_slot(0, "a"), SlotFile)
    assert_type(await client.erase_slot(0), int)
    assert_type(await client.lora_adapters(), List[LoraAdapter])
    assert_type(await client.metrics(), Metrics)
    await client.set_lora_adapters({0: 1.0})
    await client.load_model("a")
    await client.unload_model("a")
    await client.wait_until_ready(5)


async def asynchronous_streams(client: AsyncLlamaCppClient) -> None:
    async with client.chat_stream("Hi") as chat:
        async for event in chat:
            assert_type(event, StreamEvent)
    assert_type(chat.response, ChatResponse)
    assert_type(chat.text(), AsyncIterator[str])
    async with client.complete_stream("Hi") as completion:
        async for piece in completion:
            assert_type(piece, CompletionEvent)
    assert_type(completion.response, CompletionResponse)
    assert_type(completion.text(), AsyncIterator[str])
    async with client.model_events() as events:
        async for model_event in events:
            assert_type(model_event, ModelEvent)


def members(
    completed: CompletionResponse, embeddings: Embeddings, ranking: Ranking, metrics: Metrics, piece: TokenPiece
) -> None:
    assert_type(completed.choices, Sequence[Completion])
    assert_type(completed.content, str)
    assert_type(completed.tokens, Sequence[int])
    assert_type(completed.stop_type, Optional[str])
    assert_type(completed.usage, Optional[Usage])
    assert_type(completed.timings, Optional[Timings])
    assert_type(completed.choices[0].raw, Mapping[str, Any])
    assert_type(embeddings[0], List[float])
    assert_type(list(embeddings), List[List[float]])
    assert_type(len(embeddings), int)
    assert_type(ranking.results, Sequence[RankedDocument])
    assert_type(ranking.results[0].score, float)
    assert_type(metrics["name"], float)
    assert_type(metrics.samples[0].labels, Mapping[str, str])
    assert_type(piece.piece, Union[str, bytes])
