"""Every route of a batch, answered by real servers: completions, embeddings, rerank."""

from __future__ import annotations

import json
from typing import Any, Callable, Dict, List

import pytest
from command import Home
from real_server import RealServer


def results(home: Home, server: RealServer, code: int, *lines: Dict[str, Any]) -> Dict[str, Any]:
    """Run a batch. Returns the server's JSON, or the line in the errors file, by ID."""
    home.write("in.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    ended = home.run("batch", "in.jsonl", "-o", "out.jsonl", "--endpoint", server.endpoint)
    assert ended.code == code, ended.err
    answers = {}
    for name in ("out.jsonl", "out.jsonl.errors.jsonl"):
        if (home.path / name).exists():
            for line in map(json.loads, (home.path / name).read_text().splitlines()):
                answers[line["custom_id"]] = line if line["error"] else line["response"]["body"]
    return answers


def ask(name: str, url: str, **body: Any) -> Dict[str, Any]:
    return {"custom_id": name, "method": "POST", "url": url, "body": body}


def test_completions_and_chats_in_one_batch(home: Home, real_server: RealServer) -> None:
    answers = results(
        home,
        real_server,
        1,
        ask("text", "/v1/completions", prompt="Once upon a time", max_tokens=5),
        ask("chat", "/v1/chat/completions", messages=[{"role": "user", "content": "Hi"}], max_tokens=5),
        ask("vector", "/v1/embeddings", input="Hi"),
    )
    assert answers["text"]["choices"][0]["text"]
    assert answers["text"]["usage"]["completion_tokens"] == 5
    assert answers["chat"]["choices"][0]["message"]["content"]
    assert answers["vector"]["error"]["code"] == "not_supported_error"  # the server was started without --embeddings


def test_a_batch_of_embeddings(home: Home, start_server: Callable[..., RealServer]) -> None:
    server = start_server(embeddings=True, pooling="mean")
    texts = ["a cat", "a kitten", "the stock market"]
    answers = results(
        home,
        server,
        0,
        *(ask(text, "/v1/embeddings", input=text) for text in texts),
        ask("both", "/v1/embeddings", input=texts[:2]),
    )
    vectors = {text: answers[text]["data"][0]["embedding"] for text in texts}
    assert {len(vector) for vector in vectors.values()} == {576}  # of SmolLM2-135M
    assert len({tuple(vector) for vector in vectors.values()}) == 3
    assert [item["embedding"] for item in answers["both"]["data"]] == [
        pytest.approx(vectors[text], abs=1e-2) for text in texts[:2]
    ]


def test_a_batch_of_rankings(home: Home, start_server: Callable[..., RealServer]) -> None:
    server = start_server(embeddings=True, pooling="rank")
    documents: List[str] = ["Paris is in France.", "Bread is baked."]
    lines = [ask(url, url, query="Where is Paris?", documents=documents) for url in ("/v1/rerank", "/rerank")]
    answers = results(home, server, 0, *lines)
    for url in ("/v1/rerank", "/rerank"):
        assert sorted(item["index"] for item in answers[url]["results"]) == [0, 1]
