"""From lines to requests and from results to lines: the parts of a batch without I/O."""

from __future__ import annotations

import io
import json
from typing import Any, Dict, List

import pytest

from flynn.batch.input import Done, Lines, read_jsonl, read_table, read_template, read_text, requests
from flynn.batch.requests import CHAT, COMPLETIONS, EMBEDDINGS, Defaults, Request, make_request
from flynn.batch.results import Result, Tally, answer, encode_result, failure, is_torn, read_result
from flynn.errors import FileError, ProtocolError, RequestError, ServerError

NOTHING = Defaults()


def encoded(source: Any, defaults: Defaults = NOTHING) -> Any:
    """Return ID, route and body of the request for a source."""
    request = make_request(source, 7, defaults)
    return request.custom_id, request.path, json.loads(request.body)


USAGE = {"usage": {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 3}}}
USER = {"role": "user", "content": "Hi"}


# --- requests ---------------------------------------------------------------------------------------------------------


def test_a_line_may_have_the_form_of_openai() -> None:
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": [USER], "n": 2}}
    assert encoded(line) == ("a", "/v1/chat/completions", {"messages": [USER], "n": 2})


@pytest.mark.parametrize(
    ("url", "body"),
    [
        ("/v1/completions", {"prompt": "x"}),
        ("/v1/embeddings", {"input": ["x"]}),
        ("/v1/rerank", {"query": "x", "documents": ["y"]}),
    ],
)
def test_a_line_may_name_another_route(url: str, body: Dict[str, Any]) -> None:
    assert encoded({"url": url, "body": body}) == ("request-7", url, body)


def test_the_short_forms_are_chats() -> None:
    assert encoded({"prompt": "Hi", "seed": 1}) == ("request-7", CHAT, {"messages": [USER], "seed": 1})
    assert encoded({"custom_id": "b", "messages": [USER]}) == ("b", CHAT, {"messages": [USER]})
    assert encoded("Hi") == ("request-7", CHAT, {"messages": [USER]})


def test_defaults_apply_to_chats_that_do_not_set_the_field() -> None:
    defaults = Defaults("S", {"seed": 1, "max_tokens": 5})
    system = {"role": "system", "content": "S"}
    assert encoded({"prompt": "Hi", "seed": 2}, defaults)[2] == {"messages": [system, USER], "seed": 2, "max_tokens": 5}
    own = {"role": "system", "content": "own"}
    assert encoded({"messages": [own, USER]}, defaults)[2]["messages"] == [own, USER]
    assert encoded({"url": "/v1/embeddings", "body": {"input": "x"}}, defaults)[2] == {"input": "x"}


def test_messages_come_first_in_the_body() -> None:
    line = {"url": "/v1/chat/completions", "body": {"seed": 1, "messages": [USER]}}
    assert make_request(line, 1, NOTHING).body.startswith(b'{"messages":')


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (5, "a request must be an object, not 5"),
        ({}, 'a request must have "prompt", or "messages"'),
        ({"prompt": "a", "messages": []}, 'a request must have "prompt", or "messages"'),
        ({"prompt": 5}, "prompt must be a string, not 5"),
        ({"messages": "Hi"}, '"messages" must be a list of objects'),
        ({"custom_id": "", "prompt": "a"}, "custom_id must be a string that is not empty, not ''"),
        ({"custom_id": 5, "prompt": "a"}, "custom_id must be a string that is not empty, not 5"),
        ({"url": "/v1/chat/completions"}, 'the body for /v1/chat/completions must be an object with "messages"'),
        ({"url": "/v1/chat/completions", "body": {}}, 'must be an object with "messages"'),
        ({"url": "/etc/passwd", "body": {}}, r"url is '/etc/passwd' \(expected one of: /v1/chat/completions"),
        ({"url": ["x"], "body": {}}, r"url is \['x'\]"),
        ({"url": "/v1/completions", "method": "GET", "body": {"prompt": ""}}, "method must be \"POST\", not 'GET'"),
        ({"url": "/v1/completions", "bodi": {}, "body": {}}, "unknown field 'bodi' .*body"),
        ({"prompt": "a", "stream": True}, "a batch cannot stream"),
        ({"prompt": "a", "x": float("nan")}, "JSON cannot hold the request"),
    ],
)
def test_an_invalid_request_is_refused_with_the_reason(source: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        make_request(source, 1, NOTHING)


# --- results ----------------------------------------------------------------------------------------------------------

REQUEST = Request('a "b" ü', CHAT, b'{"messages":[]}', 3, "0123456789abcdef", defaulted=("seed",))


def test_an_answer_is_stored_byte_for_byte() -> None:
    raw = '{"id":"c","choices":[{"message":{"content":"ü"}}],"x":1.50}'.encode()
    line = encode_result(answer(REQUEST, raw))
    assert json.loads(line) == {
        "id": "batch_req_0123456789abcdef",
        "custom_id": 'a "b" ü',
        "response": {"status_code": 200, "request_id": "c", "body": json.loads(raw)},
        "error": None,
    }
    assert raw in line
    assert read_result(line) == (b"0123456789abcdef", b'"a \\"b\\" \\u00fc"')


@pytest.mark.parametrize("member", ['"\\ud800"', "NaN", "1e999", "[" * 900 + "]" * 900])
def test_only_the_line_breaks_of_an_answer_are_replaced(member: str) -> None:
    raw = f'{{\r\n "choices": [{{"message": {{"content": "x"}}}}],\n "more": {member}\n}}'.encode()
    line = encode_result(answer(REQUEST, raw))
    assert raw.replace(b"\r", b" ").replace(b"\n", b" ") in line
    assert line.count(b"\n") == 1


@pytest.mark.parametrize("body", ["<html>", "null", "{}", "[]", '{"error": {"message": "x"}}', '{"choices": []}', "5"])
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, EMBEDDINGS, "/v1/rerank", "/rerank"])
def test_an_answer_that_the_client_would_refuse_is_not_a_result(path: str, body: str) -> None:
    with pytest.raises(ProtocolError):
        answer(Request("a", path, b"{}"), body.encode())


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (COMPLETIONS, '{"choices": [{"text": "", "finish_reason": "stop"}]}'),
        (EMBEDDINGS, '{"data": [{"index": 0, "embedding": [0.5]}]}'),
        ("/v1/rerank", '{"results": [{"index": 0, "relevance_score": 0.5}]}'),
        ("/rerank", '[{"index": 0, "score": 0.5}]'),
    ],
)
def test_answers_of_other_routes_are_results(path: str, body: str) -> None:
    assert answer(Request("a", path, b"{}"), body.encode()).error is None


def test_a_failure_holds_the_answer_of_the_server_and_the_request() -> None:
    error = ServerError("too long", status=400, type="exceed_context_size_error", body='{"error":{"n_ctx":5}}')
    line = json.loads(encode_result(failure(REQUEST, error)))
    assert line["custom_id"] == REQUEST.custom_id
    assert line["response"] == {"status_code": 400, "request_id": "", "body": {"error": {"n_ctx": 5}}}
    assert line["error"] == {"code": "exceed_context_size_error", "message": "too long", "line": 3}
    body = {"messages": []}
    assert line["request"] == {"custom_id": REQUEST.custom_id, "method": "POST", "url": CHAT, "body": body}
    assert line["defaults"] == ["seed"]


def test_a_failure_without_an_answer_has_no_response() -> None:
    line = json.loads(encode_result(Result(None, 9, error=RequestError("not JSON"))))
    assert (line["custom_id"], line["response"], line["request"]) == (None, None, None)
    assert line["error"] == {"code": "RequestError", "message": "not JSON", "line": 9}


def test_content_and_tokens_of_any_answer() -> None:
    assert Result("a", 1, {"choices": [{"text": "t"}]}).content == "t"
    assert Result("a", 1, [1]).content == ""
    assert Result("a", 1, {}).tokens() == (0, 0, 0)
    assert Result("a", 1, USAGE).tokens() == (5, 3, 2)


@pytest.mark.parametrize("end", [b'{"id":"ba', b'{"id":"batch_req_01', b"", b"\0\0", b'{"id":"batch_req_01","cus\0\0'])
def test_the_beginning_of_a_result_is_a_torn_line(end: bytes) -> None:
    assert is_torn(end)


@pytest.mark.parametrize("end", [b"Dear diary", b'{"id":"x'])
def test_other_text_is_not_a_torn_line(end: bytes) -> None:
    assert not is_torn(end)


# --- files ------------------------------------------------------------------------------------------------------------


def values(reader: Any, data: bytes, **limits: int) -> List[Any]:
    """Return the line number of each entry with its value or its error message."""
    entries = reader(Lines(io.BytesIO(data), **limits))
    return [(n, str(value) if isinstance(value, RequestError) else value) for n, _, value in entries]


def test_jsonl_skips_empty_lines_and_reports_invalid_ones() -> None:
    data = b'\xef\xbb\xbf{"a": 1}\r\n\n[]\n{"a": NaN}\n{"a"\n{"a":"\xff"}\n{"a": 1, "b": 2, "a": 3}\n{"a": 2}'
    entries = values(read_jsonl, data)
    assert entries[0] == (1, {"a": 1})
    assert entries[1] == (3, "expected an object, got list")
    assert entries[2] == (4, "not JSON: NaN is not a number in JSON")
    assert entries[3][1].startswith("not JSON: ")
    assert entries[4:] == [(6, "not UTF-8"), (7, "the field 'a' is there twice"), (8, {"a": 2})]
    assert values(read_jsonl, b'{"a":' * 100_000) == [(1, "not JSON: nested too deeply")]


def test_each_line_of_text_is_a_prompt() -> None:
    assert values(read_text, b"\xef\xbb\xbfone\r\n\n two \n\xff") == [(1, "one"), (3, " two "), (4, "not UTF-8")]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("length", [11, 12, 14, 35])
def test_a_line_that_is_too_long_is_an_error_and_the_next_one_is_read(mark: bytes, length: int) -> None:
    data = mark + b"x" * 10 + b"\n" + b"y" * length + b"\nnext\n"
    expected = [(1, "x" * 10), (2, "more than 10 bytes"), (3, "next")]
    assert values(read_text, data, longest=10) == expected


def test_csv_rows_are_mappings_with_the_names_of_the_header() -> None:
    data = 'name,text\nA,"two\nlines"\n\nB,ü\nC\n'.encode() + b"D,\xff\n"
    assert values(lambda lines: read_table(lines, ["name"]), data) == [
        (3, {"name": "A", "text": "two\nlines"}),
        (5, {"name": "B", "text": "ü"}),
        (6, "the row has 1 values, and the header 2"),
        (7, "not UTF-8"),
    ]


def test_a_template_is_filled_from_csv_or_json_lines() -> None:
    def filled(lines: Lines) -> Any:
        return read_template(lines, "To {{ name }}: {{text}} {json: {{n}}} {{name}}")

    row = {"name": "A {{text}}", "text": "t", "n": [1, "ü"], "custom_id": "id"}
    prompt = 'To A {{text}}: t {json: [1, "ü"]} A {{text}}'
    assert values(filled, json.dumps(row).encode()) == [(1, {"prompt": prompt, "custom_id": "id"})]
    assert values(filled, b"name,n,text\nA,5,t\n") == [(2, {"prompt": "To A: t {json: 5} A"})]
    assert values(filled, b'{"name": "A"}') == [(1, "no value for {{text}} (there are: name)")]
    assert values(filled, b"") == []


def test_a_template_without_a_placeholder_is_refused() -> None:
    with pytest.raises(RequestError, match="has no {{name}}"):
        values(lambda lines: read_template(lines, "Hello {name}"), b"")


def read(data: bytes, done: Done, defaults: Defaults = NOTHING) -> List[Any]:
    return list(requests(read_jsonl(Lines(io.BytesIO(data))), defaults, done, file="in.jsonl"))


def recorded(data: bytes) -> Done:
    """Return the record of a run that answered every request of this input."""
    done = Done()
    for request in read(data, Done()):
        assert done.add(json.dumps(request.custom_id).encode(), request.digest.encode())
    return done


LINES = b'{"prompt": "a"}\n{"custom_id": "x", "prompt": "b"}\n'


def test_a_request_with_a_result_is_not_sent_again() -> None:
    done = recorded(LINES)
    assert [request.custom_id for request in read(LINES + b'{"prompt": "c"}', done)] == ["request-3"]
    assert done.left == 0


@pytest.mark.parametrize(
    "line",
    [
        '{"custom_id":"x","prompt":"a"}',
        '{"prompt": "a", "custom_id" : "x y"}',
        '{"custom_id": "ü \\"\\u00fc", "prompt": "a"}',
        r'{"custom\u005fid": "x", "prompt": "a"}',
        '{"prompt": "a", "metadata": {"custom_id": "inner"}}',
        '{"messages": [{"role": "user", "content": "a", "custom_id": "inner"}], "custom_id": "outer"}',
        r'{"prompt": "say \"custom_id\": \"x\""}',
        '{"custom_id": null, "prompt": "request-1"}',
    ],
)
def test_a_line_with_a_result_is_recognised_however_its_id_is_written(line: str) -> None:
    lines = f'{{"prompt": "before"}}\n{line}\n'.encode()
    done = recorded(lines)
    assert read(lines, done) == []
    assert done.left == 0


def test_a_custom_id_inside_another_field_is_not_the_id_of_the_line() -> None:
    inner = b'{"prompt": "a", "metadata": {"custom_id": "x"}}\n'
    done = recorded(b'{"custom_id": "x", "prompt": "b"}\n')
    assert [request.custom_id for request in read(inner, done)] == ["request-1"]
    assert done.left == 1


def test_lines_with_ids_may_change_their_order() -> None:
    lines = b'{"custom_id": "x", "prompt": "b"}\n{"custom_id": "y", "prompt": "b"}\n'
    assert read(b"\n".join(reversed(lines.splitlines())), recorded(lines)) == []


def test_a_changed_line_is_an_error() -> None:
    with pytest.raises(FileError, match=r"in.jsonl:2: 'x' has a result already, but of something else"):
        read(LINES.replace(b'"b"', b'"B"'), recorded(LINES))


def test_changed_options_are_an_error() -> None:
    with pytest.raises(FileError, match=r"in.jsonl:1: 'request-1' has a result already"):
        read(LINES, recorded(LINES), Defaults("another system prompt"))


def test_results_without_a_request_are_counted() -> None:
    done = recorded(LINES)
    read(b'{"prompt": "a"}', done)
    assert done.left == 1


def test_a_duplicate_id_is_an_error() -> None:
    first, second = read(b'{"custom_id": "x", "prompt": "a"}\n' * 2, Done())
    assert first.custom_id == "x"
    assert (second.custom_id, second.number) == ("x", 2)
    assert str(second.error) == "an earlier line has the custom_id 'x' too"


# --- totals -----------------------------------------------------------------------------------------------------------


def test_the_tally_has_a_progress_line_a_summary_and_a_report() -> None:
    tally = Tally(done_before=2)
    tally.add(Result("a", 1, USAGE))
    tally.add(failure(REQUEST, ServerError("x", status=400)))
    assert tally.line(10.0).startswith("3 done, 1 failed, ")
    assert tally.line(10.0).endswith(" left")
    assert tally.summary().startswith("3 done (2 of them before), 1 failed, 5 tokens in (3 cached), 2 out, ")
    names = ("done", "done_before", "failed", "prompt_tokens", "cached_tokens", "completion_tokens")
    assert [tally.report()[name] for name in names] == [1, 2, 1, 5, 3, 2]


def test_the_time_left_is_not_estimated_from_failures() -> None:
    tally = Tally()
    tally.add(failure(REQUEST, ServerError("x", status=400)))
    assert "left" not in tally.line(10.0)
