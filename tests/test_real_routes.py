"""Routes other than chat, on a real llama.cpp server, through both clients."""

from __future__ import annotations

import asyncio
from array import array
from pathlib import Path
from typing import Any, Callable, Iterator, List

import environment
import pytest
from faults import cut
from gguf import write_infill_model, write_lora
from real_server import RealServer
from scripted import Proxy, eventually

from flynn import (
    AsyncLlamaCppClient,
    AuthenticationError,
    ContextSizeError,
    Embeddings,
    LlamaCppClient,
    NotSupportedError,
    RankedDocument,
    ServerError,
    SlotFile,
    StreamInterruptedError,
    TokenPiece,
)

DATA = Path(__file__).parent / "data"
LONG = {"n_predict": 2000, "ignore_eos": True}


class Awaiting:
    """The asynchronous client, called like the synchronous one. A stream returns the list of its events."""

    def __init__(self, endpoint: str, **options: Any) -> None:
        self._client = AsyncLlamaCppClient(endpoint, **options)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def call(*args: Any, **options: Any) -> Any:
            pending = getattr(self._client, name)(*args, **options)
            return [event async for event in pending] if name.endswith("_stream") else await pending

        return lambda *args, **options: asyncio.run(call(*args, **options))


@pytest.fixture(params=[LlamaCppClient, Awaiting], ids=["synchronous", "asynchronous"])
def connect(request: pytest.FixtureRequest) -> Any:
    """Return the class of each client in turn."""
    return request.param


@pytest.fixture(scope="module")
def full_server(server_at_hand: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    """A server with a key, a directory for slots, an adapter, a model for infill and a template with reasoning."""
    path = tmp_path_factory.mktemp("full")
    with RealServer(
        model=write_infill_model(path / "model.gguf", environment.model()),
        alias="full",
        lora=write_lora(path / "lora.gguf", 1.0),
        slot_save_path=path,
        chat_template_file=DATA / "thinking.jinja",
        api_key="secret",
        metrics=True,
        ctx_size=5120,  # each slot is larger than a batch: otherwise infill leaves out other files
        parallel=2,
        threads=1,  # more threads wait for each other in a busy loop when other processes use a core
    ) as server:
        LlamaCppClient(server.endpoint, auth_token="secret").set_lora_adapters({})
        yield server


@pytest.fixture
def full(full_server: RealServer, connect: Callable[..., Any]) -> Any:
    return connect(full_server.endpoint, auth_token="secret")


@pytest.fixture
def plain(real_server: RealServer, connect: Callable[..., Any]) -> Any:
    return connect(real_server.endpoint)


def embedding_server(pooling: str) -> Any:
    @pytest.fixture(scope="module")
    def server(server_at_hand: None) -> Iterator[RealServer]:
        with RealServer(embeddings=True, pooling=pooling, parallel=2, threads=1) as server:
            yield server

    return server


mean_server, token_server, rank_server = map(embedding_server, ("mean", "none", "rank"))


# --- completion -------------------------------------------------------------------------------------------------------


def test_complete_continues_a_text(full: Any) -> None:
    reply = full.complete("Once upon a time", n_predict=4, temperature=0, n_probs=2, return_tokens=True)
    assert reply.content
    assert len(reply.tokens) == len(reply.logprobs) == reply.usage.completion_tokens == 4
    assert full.detokenize(reply.tokens) == reply.content
    assert reply.usage.prompt_tokens == 4
    assert reply.stop_type == "limit"
    assert reply.timings.predicted_n == 4
    assert reply.raw["generation_settings"]["temperature"] == 0
    assert len(reply.logprobs[0]["top_logprobs"]) == 2


def test_a_stop_word_ends_a_completion(full: Any) -> None:
    reply = full.complete("1, 2, 3, 4, 5, 6,", n_predict=12, temperature=0, stop=[" 9"])
    assert (reply.stop_type, reply.stopping_word) == ("word", " 9")
    assert reply.content == " 7, 8,"


@pytest.mark.parametrize(
    "prompt, prompts",
    [
        ("Once", ["Once"]),
        ([6403], ["Once"]),
        ([6403, " upon", 253], ["Once upon a"]),
        ({"prompt_string": "Once upon"}, ["Once upon"]),
        (["Once", "Twice"], ["Once", "Twice"]),
        ([[6403], "Once", [6403, " upon"], {"prompt_string": "Twice"}], ["Once", "Once", "Once upon", "Twice"]),
    ],
)
def test_a_prompt_may_have_any_form_of_the_server(full: Any, prompt: Any, prompts: List[str]) -> None:
    reply = full.complete(prompt, n_predict=1)
    assert [choice.raw["prompt"] for choice in reply.choices] == prompts


@pytest.mark.parametrize("prompt", ["Once", ["Once", [6403, " upon"]]])
def test_a_prompt_may_have_several_completions(full: Any, prompt: Any) -> None:
    reply = full.complete(prompt, n_predict=2, n_cmpl=2)
    expected = ["Once", "Once"] if prompt == "Once" else ["Once", "Once", "Once upon", "Once upon"]
    assert [choice.raw["prompt"] for choice in reply.choices] == expected
    *_, done = full.complete_stream(prompt, n_predict=2, n_cmpl=2)
    assert done.type == "done"
    assert [choice.raw["prompt"] for choice in done.response.choices] == expected
    assert all(choice.stop_type == "limit" for choice in done.response.choices)


def test_a_stream_has_the_same_completion_as_a_reply(full: Any) -> None:
    options = {"n_predict": 6, "temperature": 0, "n_probs": 1}
    whole = full.complete("The capital of France is", **options, return_tokens=True)
    *pieces, done = full.complete_stream("The capital of France is", **options)
    assert "".join(piece.text for piece in pieces) == done.response.content == whole.content
    assert done.response.tokens == whole.tokens
    assert [entry["id"] for piece in pieces for entry in piece.logprobs] == list(whole.tokens)
    assert done.response.stop_type == whole.stop_type
    assert done.response.usage.completion_tokens == 6


def test_progress_events_come_only_on_request_and_have_no_token(full: Any) -> None:
    prompt = "One, two, three, " * 20
    events = list(full.complete_stream(prompt, n_predict=1, temperature=0, return_progress=True, cache_prompt=False))
    progress = [event for event in events if event.type == "progress"]
    assert progress[-1].processed == progress[-1].total == events[-1].response.usage.prompt_tokens
    assert len(events[-1].response.tokens) == 1
    assert {event.type for event in full.complete_stream(prompt, n_predict=1)} <= {"content", "done"}


def test_a_stream_ends_even_if_response_fields_leave_out_stop(full: Any) -> None:
    *_, done = full.complete_stream("Once", n_predict=3, response_fields=["content"])
    assert done.type == "done"
    assert done.response.raw == {"content": ""}


def test_a_too_long_prompt_is_a_context_size_error(full: Any) -> None:
    for call in (full.complete, lambda prompt: list(full.complete_stream(prompt))):
        with pytest.raises(ContextSizeError) as caught:
            call("a " * 3000)
        assert caught.value.n_ctx == 2560


def test_unknown_options_are_refused_with_the_nearest_name(full: Any) -> None:
    with pytest.raises(TypeError, match="unknown option 'top_logprobs'"):
        full.complete("Hi", top_logprobs=1)
    with pytest.raises(TypeError, match="did you mean 'temperature'"):
        full.complete("Hi", temprature=1)


def test_closing_a_completion_stream_stops_the_server(full_server: RealServer) -> None:
    with LlamaCppClient(full_server.endpoint, auth_token="secret") as client:
        eventually(lambda: not any(slot.is_processing for slot in client.slots()), 60)
        with client.complete_stream("Once upon a time", **LONG) as stream:
            assert next(stream).type == "content"
            assert any(slot.is_processing for slot in client.slots())
        eventually(lambda: not any(slot.is_processing for slot in client.slots()), 30)


def test_a_cut_completion_stream_is_resumed(full_server: RealServer) -> None:
    with LlamaCppClient(full_server.endpoint, auth_token="secret") as client:
        whole = client.complete("Once upon a time", n_predict=14, temperature=0)
    with Proxy(full_server.endpoint, cut(1000)) as proxy, LlamaCppClient(proxy.endpoint, auth_token="secret") as client:
        stream = client.complete_stream("Once upon a time", n_predict=14, temperature=0, resume=True)
        assert "".join(stream.text()) == whole.content
        assert stream.resumes == 1


def test_a_cut_completion_stream_without_resume_has_its_partial_text(full_server: RealServer) -> None:
    with Proxy(full_server.endpoint, cut(1500)) as proxy, LlamaCppClient(proxy.endpoint, auth_token="secret") as client:
        with pytest.raises(StreamInterruptedError, match="characters of text") as caught:
            list(client.complete_stream("Once upon a time", n_predict=14, temperature=0))
        assert caught.value.partial.content


def test_complete_uses_the_defaults_of_the_client_except_those_of_chat_alone(full_server: RealServer) -> None:
    defaults = {"n_predict": 2, "temperature": 0.0, "reasoning_format": "none", "extra": {"seed": 3}}
    model = "ignored by a server with one model"
    with LlamaCppClient(full_server.endpoint, auth_token="secret", defaults=defaults, model=model) as client:
        reply = client.complete("Once", extra={"top_k": 7})
        assert reply.usage and reply.usage.completion_tokens == 2
        settings = reply.raw["generation_settings"]
        assert (settings["temperature"], settings["seed"], settings["top_k"]) == (0, 3, 7)


# --- infill -----------------------------------------------------------------------------------------------------------


def test_infill_fills_a_gap(full: Any) -> None:
    reply = full.infill("def add(a, b):\n", "\n", prompt="    return", n_predict=4, temperature=0)
    assert reply.raw["prompt"].endswith("<filename>def add(a, b):\n    return<gh_stars>\n<issue_start>")
    assert reply.usage.completion_tokens == 4


def test_infill_sends_other_files(full: Any) -> None:
    reply = full.infill("a = ", "\n", input_extra=[{"filename": "b.py", "text": "ANOTHER FILE"}], n_predict=1)
    assert "ANOTHER FILE" in reply.raw["prompt"]


def test_infill_is_not_supported_by_every_model(plain: Any) -> None:
    with pytest.raises(NotSupportedError, match="Infill is not supported by this model"):
        plain.infill("a", "b")


# --- embeddings and ranking -------------------------------------------------------------------------------------------


def test_texts_and_tokens_are_embedded(mean_server: RealServer, connect: Callable[..., Any]) -> None:
    client = connect(mean_server.endpoint)
    embeddings = client.embed(["Hello world", client.tokenize("Hello world"), "Something else"])
    assert len(embeddings) == 3
    assert embeddings.dimensions == len(embeddings[0]) == 576
    assert embeddings[0] == pytest.approx(embeddings[1], abs=1e-6)
    assert embeddings[0] != pytest.approx(embeddings[2], abs=1e-2)
    assert sum(x * x for x in embeddings[2]) == pytest.approx(1.0, abs=1e-5)
    assert embeddings.usage.prompt_tokens == 6
    assert list(client.embed("Hello world")) == [pytest.approx(embeddings[0], abs=1e-6)]


def test_embeddings_equal_those_that_the_server_writes_as_numbers(
    mean_server: RealServer, connect: Callable[..., Any]
) -> None:
    client = connect(mean_server.endpoint)
    numbers = client.request("POST", "/v1/embeddings", {"input": "Hello"})["data"][0]["embedding"]
    assert client.embed("Hello")[0] == array("f", numbers).tolist()
    assert client.embed("Hello", extra={"encoding_format": "float"})[0] == array("f", numbers).tolist()
    raw = client.embed("Hello", embd_normalize=-1)[0]
    assert sum(x * x for x in raw) > 2


def test_each_token_is_embedded(token_server: RealServer, connect: Callable[..., Any]) -> None:
    client = connect(token_server.endpoint)
    first, second = client.embed_tokens(["Hello wide world", "Hello"])
    assert isinstance(first, Embeddings)
    assert (len(first), len(second), first.dimensions) == (3, 1, 576)
    assert first[0] == pytest.approx(second[0], rel=1e-3, abs=1e-3)
    with pytest.raises(ServerError, match="Pooling type 'none'") as refusal:
        client.embed("Hello")
    assert refusal.value.hint.startswith("embed_tokens returns a vector for each token; for one for each text, start")


def test_documents_are_ranked(rank_server: RealServer, connect: Callable[..., Any]) -> None:
    documents = ["Grass is green.", "I sleep.", "The sky"]
    client = connect(rank_server.endpoint)
    ranking = client.rerank("colours", documents)
    assert sorted(result.document for result in ranking.results) == sorted(documents)
    assert all(result.document == documents[result.index] for result in ranking.results)
    scores = [result.score for result in ranking.results]
    assert scores == sorted(scores, reverse=True)
    assert ranking.usage.prompt_tokens > 3
    (best,) = client.rerank("colours", documents, top_n=1).results
    assert isinstance(best, RankedDocument)
    assert best.index == ranking.results[0].index


def test_the_error_of_embeddings_and_ranking_names_the_missing_server_option(plain: Any) -> None:
    with pytest.raises(NotSupportedError, match="--embeddings"):
        plain.embed("Hello")
    with pytest.raises(NotSupportedError, match="--embeddings"):
        plain.embed_tokens("Hello")
    with pytest.raises(NotSupportedError, match="--reranking"):
        plain.rerank("Hello", ["world"])


@pytest.mark.parametrize("input", ["", [], [[]]])
def test_an_empty_input_of_embeddings_is_refused(
    mean_server: RealServer, connect: Callable[..., Any], input: Any
) -> None:
    with pytest.raises(ServerError) as caught:
        connect(mean_server.endpoint).embed(input)
    assert caught.value.status in (400, 500)


# --- tokens and templates ---------------------------------------------------------------------------------------------


def test_tokens_come_with_their_pieces(plain: Any) -> None:
    text = "Hello <|im_start|>, größe 😀"
    pieces = plain.tokenize(text, with_pieces=True)
    assert all(isinstance(piece, TokenPiece) for piece in pieces)
    assert [piece.id for piece in pieces] == plain.tokenize(text)
    assert b"".join(p.piece if isinstance(p.piece, bytes) else p.piece.encode() for p in pieces).decode() == text
    assert {type(piece.piece) for piece in pieces} == {str, bytes}
    assert plain.detokenize([piece.id for piece in pieces]) == text


def test_a_template_is_applied_without_an_answer(plain: Any) -> None:
    prompt = plain.apply_template([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}])
    assert prompt == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert len(plain.tokenize(prompt)) == plain.count_tokens(
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    )


# --- slots, adapters, metrics -----------------------------------------------------------------------------------------


def test_a_slot_is_saved_erased_and_restored(full: Any) -> None:
    full.complete("A prompt that stays in the cache of one slot", id_slot=1, n_predict=1)
    saved = full.save_slot(1, "one.bin")
    assert isinstance(saved, SlotFile)
    assert (saved.id_slot, saved.filename) == (1, "one.bin")
    assert saved.n_tokens == 10
    assert saved.n_bytes > 10_000
    assert saved.raw["timings"]["save_ms"] > 0
    assert full.erase_slot(1) == 10
    assert full.erase_slot(1) == 0
    restored = full.restore_slot(1, "one.bin")
    assert (restored.n_tokens, restored.n_bytes) == (saved.n_tokens, saved.n_bytes)
    reply = full.complete("A prompt that stays in the cache of one slot", id_slot=1, n_predict=1)
    assert reply.usage.cached_tokens > 0


def test_an_invalid_slot_or_slot_file_is_refused(full: Any) -> None:
    with pytest.raises(ServerError, match="Invalid filename"):
        full.save_slot(0, "../outside.bin")
    with pytest.raises(ServerError, match="Unable to restore slot"):
        full.restore_slot(0, "missing.bin")
    with pytest.raises(ValueError):
        full.erase_slot("0?action=save")


def test_slots_cannot_be_saved_without_a_directory(plain: Any) -> None:
    for call in (lambda: plain.save_slot(0, "x"), lambda: plain.restore_slot(0, "x"), lambda: plain.erase_slot(0)):
        with pytest.raises(NotSupportedError, match="--slot-save-path"):
            call()


def test_adapters_are_scaled(full: Any) -> None:
    def complete(**options: Any) -> Any:
        return full.complete("Once upon a time", n_predict=4, temperature=0, cache_prompt=False, **options).content

    (adapter,) = full.lora_adapters()
    assert adapter.id == 0
    assert adapter.path.endswith("lora.gguf")
    full.set_lora_adapters({0: 1.0})
    adapted = complete()
    full.set_lora_adapters([{"id": 0, "scale": 0.0}])
    assert full.lora_adapters()[0].scale == 0
    assert complete() != adapted
    assert complete(lora=[{"id": 0, "scale": 1.0}]) == adapted
    full.set_lora_adapters({0: 0.5})
    assert full.lora_adapters()[0].scale == 0.5
    full.set_lora_adapters({})
    assert full.lora_adapters()[0].scale == 0


def test_a_server_without_adapters_has_none(plain: Any) -> None:
    assert plain.lora_adapters() == []


def test_metrics_count_predicted_tokens(full: Any) -> None:
    before = full.metrics()
    full.complete("Once", n_predict=3)
    after = full.metrics()
    name = "llamacpp:tokens_predicted_total"
    assert after[name] == before[name] + 3
    metric = next(metric for metric in after.samples if metric.name == name)
    assert (metric.type, metric.labels) == ("counter", {})
    assert metric.help
    assert f"{name} {after[name]:g}" in after.raw
    with pytest.raises(KeyError):
        after["llamacpp:nonsense"]


def test_the_error_of_metrics_names_the_missing_server_option(
    mean_server: RealServer, connect: Callable[..., Any]
) -> None:
    with pytest.raises(NotSupportedError, match="--metrics"):
        connect(mean_server.endpoint).metrics()


# --- reasoning --------------------------------------------------------------------------------------------------------


def test_reasoning_is_ended_in_the_middle_of_a_stream(full_server: RealServer) -> None:
    options = {"max_tokens": 20, "ignore_eos": True, "reasoning_control": True, "temperature": 0}
    with LlamaCppClient(full_server.endpoint, auth_token="secret") as client:
        stream = client.chat_stream("Why is the sky blue?", **options)
        ended = False
        for event in stream:
            if event.type == "reasoning" and not ended:
                ended = client.end_reasoning(stream.response.id)
        assert ended
        assert stream.response.reasoning
        assert stream.response.content
        assert not client.end_reasoning(stream.response.id)


def test_the_asynchronous_client_ends_reasoning(full_server: RealServer) -> None:
    async def main() -> None:
        async with AsyncLlamaCppClient(full_server.endpoint, auth_token="secret") as client:
            ended = False
            async with client.chat_stream("Why?", max_tokens=20, ignore_eos=True, reasoning_control=True) as stream:
                async for event in stream:
                    if event.type == "reasoning" and not ended:
                        ended = await client.end_reasoning(stream.response.id)
            assert ended
            assert stream.response.content
            assert not await client.end_reasoning("nonsense")

    asyncio.run(main())


# --- keys -------------------------------------------------------------------------------------------------------------

CALLS = {
    "complete": ["Hi"],
    "complete_stream": ["Hi"],
    "infill": ["a", "b"],
    "embed": ["Hi"],
    "embed_tokens": ["Hi"],
    "rerank": ["Hi", ["there"]],
    "tokenize": ["Hi"],
    "detokenize": [[1]],
    "apply_template": ["Hi"],
    "count_tokens": ["Hi"],
    "slots": [],
    "save_slot": [0, "x"],
    "restore_slot": [0, "x"],
    "erase_slot": [0],
    "lora_adapters": [],
    "set_lora_adapters": [{}],
    "metrics": [],
    "end_reasoning": ["x"],
    "props": [],
}


@pytest.mark.parametrize("route", CALLS)
def test_a_wrong_key_is_an_authentication_error_on_every_route(
    full_server: RealServer, connect: Callable[..., Any], route: str
) -> None:
    client = connect(full_server.endpoint, auth_token="wrong")
    with pytest.raises(AuthenticationError, match="Invalid API Key"):
        list(getattr(client, route)(*CALLS[route]))
