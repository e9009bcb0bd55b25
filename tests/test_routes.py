"""Routes other than chat: their requests, and how answers are read, without a real server."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any, Dict, List

import numpy
import pytest
from answers import always, events, in_turn, reply, sent
from pytest_httpserver import HTTPServer
from scripted import event

from flynn import (
    Embeddings,
    Health,
    LlamaCppClient,
    ModelEvent,
    ProtocolError,
    ServerError,
    StreamInterruptedError,
)
from flynn.models.local.models import ModelEventDecoder
from flynn.models.local.retrieval import decode_embeddings, decode_ranking, decode_token_embeddings
from flynn.models.local.server import decode_lora_adapters
from flynn.models.local.text import CompletionStreamDecoder, count_completions, decode_completions
from flynn.models.local.tokens import decode_pieces


def feed(decoder: Any, *chunks: Dict[str, Any]) -> List[Any]:
    return [event for data in chunks for event in decoder.feed(json.dumps(data).encode())]


# --- routes that answer with one value --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call, arguments, key, good, result, missing",
    [
        (LlamaCppClient.health, (), "status", "ok", Health("ok"), Health("")),
        (LlamaCppClient.count_tokens, ("Hi",), "input_tokens", 7, 7, ProtocolError),
        (LlamaCppClient.apply_template, ("Hi",), "prompt", "<Hi>", "<Hi>", ""),
        (LlamaCppClient.tokenize, ("Hi",), "tokens", [1, 2], [1, 2], []),
        (LlamaCppClient.detokenize, ([1],), "content", "a", "a", ""),
        (LlamaCppClient.erase_slot, (0,), "n_erased", 5, 5, 0),
        (LlamaCppClient.end_reasoning, ("id",), "success", True, True, False),
    ],
)
def test_a_single_value_is_read_and_anything_else_is_a_protocol_error(
    httpserver: HTTPServer,
    client: LlamaCppClient,
    call: Any,
    arguments: Any,
    key: str,
    good: Any,
    result: Any,
    missing: Any,
) -> None:
    wrong = [None, [], [{key: good}], "text", 1, {key: 1.5}, {key: {}}, {key: ["a"]}]
    in_turn(httpserver, *map(reply, [{key: good}, {}, {key: None}, *wrong]))
    assert call(client, *arguments) == result
    for _ in range(2):
        if missing is ProtocolError:
            with pytest.raises(ProtocolError, match=f"as '{key}', got none"):
                call(client, *arguments)
        else:
            assert call(client, *arguments) == missing
    for value in wrong:
        expected = "a JSON object as 'response'" if not isinstance(value, dict) else f"as '{key}'"
        with pytest.raises(ProtocolError, match=f"^expected .*{expected}, got "):
            call(client, *arguments)


@pytest.mark.parametrize("call", [LlamaCppClient.count_tokens, LlamaCppClient.apply_template])
def test_count_tokens_and_apply_template_send_what_chat_would_send(
    httpserver: HTTPServer, client: LlamaCppClient, call: Any
) -> None:
    always(httpserver, reply({"input_tokens": 1, "prompt": "a"}))
    call(client, "Hi", seed=1, extra={"new": 2})
    assert sent(httpserver)[0].json == {"messages": [{"role": "user", "content": "Hi"}], "seed": 1, "new": 2}


# --- completions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body, count",
    [
        ({"prompt": "a"}, 1),
        ({"prompt": [1, 2, 3]}, 1),
        ({"prompt": ["a", 2]}, 1),
        ({"prompt": ["a", "b"]}, 2),
        ({"prompt": [[1, 2], [3]]}, 2),
        ({"prompt": [[1, "a"], "b", {"prompt_string": "c"}]}, 3),
        ({"prompt": {"prompt_string": "a"}}, 1),
        ({"prompt": []}, 1),
        ({"prompt": "a", "n": 3}, 3),
        ({"prompt": ["a", "b"], "n_cmpl": 2, "n": 5}, 4),
        ({"prompt": "a", "n_cmpl": None, "n": 2}, 2),
    ],
)
def test_completions_are_counted_as_by_the_server(body: Dict[str, Any], count: int) -> None:
    assert count_completions(body) == count


def test_a_stream_is_done_when_all_its_completions_are() -> None:
    decoder = CompletionStreamDecoder(2)
    feed(decoder, {"index": 1, "content": "b", "tokens": [2], "stop": False}, {"index": 1, "content": "", "stop": True})
    assert not decoder.done
    *_, done = feed(decoder, {"index": 0, "content": "a", "stop": False}, {"index": 0, "content": "", "stop": True})
    assert decoder.done
    assert [choice.content for choice in done.response.choices] == ["a", "b"]
    assert done.response.choices[1].tokens == (2,)


def test_the_token_of_a_progress_event_is_ignored() -> None:
    progress = {"total": 9, "cache": 3, "processed": 5, "time_ms": 7}
    data = {"index": 0, "content": "", "tokens": [0], "stop": False, "prompt_progress": progress}
    assert feed(CompletionStreamDecoder(1), data) == []
    decoder = CompletionStreamDecoder(1, progress=True)
    (event,) = feed(decoder, data)
    assert (event.total, event.cached, event.processed, event.time_ms) == (9, 3, 5, 7)
    assert decoder.response().tokens == ()


def test_an_error_in_a_stream_is_raised() -> None:
    with pytest.raises(ServerError, match="out of memory"):
        feed(CompletionStreamDecoder(1), {"error": {"code": 500, "message": "out of memory", "type": "server_error"}})


@pytest.mark.parametrize(
    "value", [None, "text", [1], {"content": 1}, {"tokens": "a"}, {"tokens": ["a"]}, {"completion_probabilities": [1]}]
)
def test_an_invalid_completion_is_a_protocol_error(value: Any) -> None:
    with pytest.raises(ProtocolError):
        decode_completions(json.dumps(value).encode())


def test_an_interrupted_stream_has_its_partial_response(httpserver: HTTPServer, client: LlamaCppClient) -> None:
    first = event({"index": 0, "content": "Hel", "tokens": [1], "stop": False})
    always(httpserver, events(first, done=False))
    with pytest.raises(StreamInterruptedError, match="3 characters of text") as caught:
        list(client.complete_stream("Hi"))
    assert caught.value.partial.content == "Hel"
    (request,) = sent(httpserver)
    assert request.path == "/completion"
    assert request.json == {"prompt": "Hi", "stream": True, "return_progress": True}


def test_extra_is_merged_last(httpserver: HTTPServer, endpoint: str) -> None:
    always(httpserver, reply({"content": ""}))
    with LlamaCppClient(endpoint, defaults={"extra": {"a": 1}}) as client:
        client.complete("Hi", n_predict=3, extra={"n_predict": 4, "b": 2})
    assert sent(httpserver)[0].json == {"prompt": "Hi", "n_predict": 4, "a": 1, "b": 2}


# --- the model of a client goes to every route ------------------------------------------------------------------------

SUCCESS = {"success": True}
ROUTES = {
    "POST /completion": lambda client: client.complete("a"),
    "POST /infill": lambda client: client.infill("a", "b"),
    "POST /v1/embeddings": lambda client: client.embed("a"),
    "POST /embeddings": lambda client: client.embed_tokens("a"),
    "POST /rerank": lambda client: client.rerank("a", ["b"]),
    "POST /tokenize": lambda client: client.tokenize("a"),
    "POST /detokenize": lambda client: client.detokenize([1]),
    "POST /apply-template": lambda client: client.apply_template("a"),
    "POST /slots/1?action=erase": lambda client: client.erase_slot(1),
    "POST /v1/chat/completions/control": lambda client: client.end_reasoning("a"),
    "GET /slots": lambda client: client.slots(),
    "GET /lora-adapters": lambda client: client.lora_adapters(),
    "GET /metrics": lambda client: client.metrics(),
}


@pytest.mark.parametrize("route", ROUTES)
def test_the_model_of_the_client_goes_to_every_route(httpserver: HTTPServer, endpoint: str, route: str) -> None:
    always(httpserver, reply([]))
    with LlamaCppClient(endpoint, model="a/b:Q4 ü&") as client:
        try:
            ROUTES[route](client)
        except ProtocolError:
            pass  # [] is not a valid reply of this route
    (request,) = sent(httpserver)
    target = f"{request.method} {request.environ['REQUEST_URI']}"
    if request.method == "POST":
        assert target == route
        assert request.json["model"] == "a/b:Q4 ü&"
    else:
        assert target == f"{route}?model=a%2Fb%3AQ4%20%C3%BC%26"


# --- embeddings -------------------------------------------------------------------------------------------------------

VECTORS = [[1.0, -2.5], [0.0, 3.25]]
BASE64 = [base64.b64encode(struct.pack("<2f", *vector)).decode() for vector in VECTORS]


@pytest.mark.parametrize("encoded", [VECTORS, BASE64])
def test_embeddings_may_be_numbers_or_base64_and_in_any_order(encoded: List[Any]) -> None:
    items = [{"index": 1, "embedding": encoded[1]}, {"index": 0, "embedding": encoded[0]}]
    embeddings = decode_embeddings({"data": items, "model": "m", "usage": {"prompt_tokens": 4}})
    assert list(embeddings) == VECTORS
    assert embeddings[-1] == VECTORS[1]
    assert (len(embeddings), embeddings.dimensions, embeddings.model) == (2, 2, "m")
    assert embeddings.usage and embeddings.usage.prompt_tokens == 4
    with pytest.raises(IndexError):
        embeddings[2]


def test_numpy_shares_the_memory_of_embeddings() -> None:
    embeddings = decode_embeddings({"data": [{"index": i, "embedding": e} for i, e in enumerate(BASE64)]})
    array = numpy.asarray(embeddings)
    assert array.dtype == numpy.float32
    assert array.tolist() == VECTORS
    array[1, 0] = 7
    assert embeddings[1] == [7, 3.25]
    assert numpy.shares_memory(array, numpy.frombuffer(embeddings.data, "<f4"))


def test_each_token_has_a_vector() -> None:
    (embeddings,) = decode_token_embeddings([{"index": 0, "embedding": VECTORS}])
    assert list(embeddings) == VECTORS


@pytest.mark.parametrize(
    "embedded",
    [
        [BASE64[0], [1.0]],
        ["A" * 6],
        ["AAAA"],
        ["ä"],
        [["a"]],
        [None],
        [1],
        [[1e39]],
        [],
        [{}],
    ],
)
def test_an_invalid_embedding_is_a_protocol_error(embedded: List[Any]) -> None:
    with pytest.raises(ProtocolError):
        decode_embeddings({"data": [{"index": 0, "embedding": value} for value in embedded]})


def test_empty_embeddings_are_empty() -> None:
    assert len(Embeddings(bytearray(), 0)) == 0


@pytest.mark.parametrize(
    "result",
    [{"index": 2, "relevance_score": 1}, {"index": -1, "relevance_score": 1}, {"index": 0}, {"relevance_score": 1}],
)
def test_a_ranking_of_other_documents_is_a_protocol_error(result: Dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        decode_ranking({"results": [result]}, ["a", "b"])


def test_a_string_in_place_of_the_documents_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="a sequence of strings"):
        LlamaCppClient("http://localhost").rerank("a", "b")


# --- metrics ----------------------------------------------------------------------------------------------------------


def test_html_in_place_of_metrics_is_a_protocol_error(httpserver: HTTPServer, client: LlamaCppClient) -> None:
    always(httpserver, reply(b"<html>", kind="text/html"))
    with pytest.raises(ProtocolError, match="expected text/plain, got 'text/html'"):
        client.metrics()


# --- tokens, adapters and model events --------------------------------------------------------------------------------


@pytest.mark.parametrize("piece", [[256], [-1], ["a"], 10**12, {"a": 1}, True])
def test_an_invalid_token_piece_is_a_protocol_error(piece: Any) -> None:
    with pytest.raises(ProtocolError):
        decode_pieces({"tokens": [{"id": 1, "piece": piece}]})


@pytest.mark.parametrize("value", [{}, [1], [{"id": "a"}], [{"id": 0, "scale": "a"}], [{"id": 0, "path": 1}]])
def test_an_invalid_adapter_is_a_protocol_error(value: Any) -> None:
    with pytest.raises(ProtocolError):
        decode_lora_adapters(value)


def test_model_events_are_read() -> None:
    loading = {
        "model": "m",
        "event": "status_change",
        "data": {
            "status": "loading",
            "progress": {"stages": ["text_model", "mmproj_model"], "current": "text_model", "value": 0.5},
        },
    }
    reloaded = {"model": "*", "event": "models_reload"}
    downloading, unstarted = (
        {"model": "m", "event": "download_progress", "data": {"progress": files}}
        for files in ({"a": {"done": 30, "total": 40}, "b": {"done": 0, "total": 20}}, {"a": {"done": 0, "total": 0}})
    )
    assert feed(ModelEventDecoder(), loading, reloaded, downloading, unstarted) == [
        ModelEvent("m", "status_change", "loading", "text_model", 0.5, loading),
        ModelEvent("*", "models_reload", None, None, None, reloaded),
        ModelEvent("m", "download_progress", None, None, 0.5, downloading),
        ModelEvent("m", "download_progress", None, None, None, unstarted),
    ]


@pytest.mark.parametrize(
    "data",
    [
        {"model": 1},
        {"data": []},
        {"data": {"progress": {"value": "half"}}},
        {"event": "download_progress", "data": {"progress": {"a": 1}}},
        {"event": "download_progress", "data": {"progress": {"a": {"total": "all"}}}},
        [],
    ],
)
def test_an_invalid_model_event_is_a_protocol_error(data: Any) -> None:
    with pytest.raises(ProtocolError):
        feed(ModelEventDecoder(), data)
