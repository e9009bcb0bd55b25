"""Lines as requests, results as lines: the pure parts of a batch."""

from __future__ import annotations

import io
import json
from typing import Any, Dict, List

import pytest

from flynn.batch.output import Done, IdTable
from flynn.batch.queue import Task, Window
from flynn.batch.requests import Defaults, Request, make_request
from flynn.batch.results import Result, Tally, encode_result, failure, is_torn, read_line, success
from flynn.batch.sources import Lines, Template, read_jsonl, read_table, read_text, read_values, requests
from flynn.errors import FileError, ProtocolError, RequestError, ServerError

NOTHING = Defaults()


def made(source: Any, defaults: Defaults = NOTHING) -> Any:
    request = make_request(source, 7, defaults)
    return request.custom_id, request.path, json.loads(request.body)


USER = {"role": "user", "content": "Hi"}


# --- requests ---------------------------------------------------------------------------------------------------------


def test_openai_s_form() -> None:
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": [USER], "n": 2}}
    assert made(line) == ("a", "/v1/chat/completions", {"messages": [USER], "n": 2})


@pytest.mark.parametrize(
    ("url", "body"),
    [
        ("/v1/completions", {"prompt": "x"}),
        ("/v1/embeddings", {"input": ["x"]}),
        ("/v1/rerank", {"query": "x", "documents": ["y"]}),
    ],
)
def test_other_routes(url: str, body: Dict[str, Any]) -> None:
    assert made({"url": url, "body": body}) == ("request-7", url, body)


def test_the_short_forms_are_chats() -> None:
    assert made({"prompt": "Hi", "seed": 1}) == ("request-7", "/v1/chat/completions", {"messages": [USER], "seed": 1})
    assert made({"custom_id": "b", "messages": [USER]}) == ("b", "/v1/chat/completions", {"messages": [USER]})
    assert made("Hi") == ("request-7", "/v1/chat/completions", {"messages": [USER]})


def test_defaults_are_for_what_does_not_say_otherwise() -> None:
    defaults = Defaults("S", {"seed": 1, "max_tokens": 5})
    system = {"role": "system", "content": "S"}
    assert made({"prompt": "Hi", "seed": 2}, defaults)[2] == {"messages": [system, USER], "seed": 2, "max_tokens": 5}
    own = {"role": "system", "content": "own"}
    assert made({"messages": [own, USER]}, defaults)[2]["messages"] == [own, USER]
    assert made({"url": "/v1/embeddings", "body": {"input": "x"}}, defaults)[2] == {"input": "x"}


def test_what_the_model_reads_comes_first_in_the_body() -> None:
    line = {"url": "/v1/chat/completions", "body": {"seed": 1, "messages": [USER]}}
    assert make_request(line, 1, NOTHING).body.startswith(b'{"messages":')


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (5, "a request is an object, not 5"),
        ({}, 'a request has "prompt", or "messages"'),
        ({"prompt": "a", "messages": []}, 'a request has "prompt", or "messages"'),
        ({"prompt": 5}, "a prompt is a string, not 5"),
        ({"messages": "Hi"}, '"messages" is a list of objects'),
        ({"custom_id": "", "prompt": "a"}, "a custom_id is a string that is not empty, not ''"),
        ({"custom_id": 5, "prompt": "a"}, "a custom_id is a string that is not empty, not 5"),
        ({"url": "/v1/chat/completions"}, 'the body of /v1/chat/completions is an object with "messages"'),
        ({"url": "/v1/chat/completions", "body": {}}, 'is an object with "messages"'),
        ({"url": "/etc/passwd", "body": {}}, "url is '/etc/passwd', and a batch knows: /v1/chat/completions"),
        ({"url": ["x"], "body": {}}, r"url is \['x'\]"),
        ({"url": "/v1/completions", "method": "GET", "body": {"prompt": ""}}, "the method is \"POST\", not 'GET'"),
        ({"url": "/v1/completions", "bodi": {}, "body": {}}, "unknown field 'bodi' .*body"),
        ({"prompt": "a", "stream": True}, "a batch has no streams"),
        ({"prompt": "a", "x": float("nan")}, "JSON cannot hold this"),
    ],
)
def test_what_is_no_request_is_told(source: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        make_request(source, 1, NOTHING)


# --- results ----------------------------------------------------------------------------------------------------------

ASKED = Request('a "b" ü', "/v1/chat/completions", b"{}", 3, "0123456789abcdef")


def test_an_answer_goes_into_its_line_as_it_came() -> None:
    raw = '{"id":"c","choices":[{"message":{"content":"ü"}}],"x":1.50}'.encode()
    line = encode_result(success(ASKED, raw))
    assert json.loads(line) == {
        "id": "batch_req_0123456789abcdef",
        "custom_id": 'a "b" ü',
        "response": {"status_code": 200, "request_id": "c", "body": json.loads(raw)},
        "error": None,
    }
    assert raw in line
    assert read_line(line) == (b"0123456789abcdef", b'"a \\"b\\" \\u00fc"')


def test_an_answer_of_several_lines_becomes_one() -> None:
    line = encode_result(success(ASKED, b'{\r\n "x": 1\n}'))
    assert line.count(b"\n") == 1
    assert json.loads(line)["response"]["body"] == {"x": 1}


def test_an_answer_that_is_not_json_is_none() -> None:
    with pytest.raises(ProtocolError):
        success(ASKED, b"<html>")


def test_a_failure_has_what_the_server_said() -> None:
    error = ServerError("too long", status=400, type="exceed_context_size_error", body='{"error":{"n_ctx":5}}')
    line = json.loads(encode_result(failure(ASKED, error)))
    assert line["custom_id"] == ASKED.custom_id
    assert line["response"] == {"status_code": 400, "request_id": "", "body": {"error": {"n_ctx": 5}}}
    assert line["error"] == {"code": "exceed_context_size_error", "message": "too long", "line": 3}


def test_a_failure_without_an_answer_has_no_response() -> None:
    line = json.loads(encode_result(Result(None, 9, error=RequestError("not JSON"))))
    assert (line["custom_id"], line["response"]) == (None, None)
    assert line["error"] == {"code": "RequestError", "message": "not JSON", "line": 9}


def test_content_and_tokens_of_any_answer() -> None:
    assert success(ASKED, b'{"choices":[{"text":"t"}]}').content == "t"
    assert success(ASKED, b"[1]").content == ""
    usage = b'{"usage":{"prompt_tokens":5,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":3}}}'
    assert success(ASKED, usage).tokens() == (5, 3, 2)
    assert success(ASKED, b"{}").tokens() == (0, 0, 0)


@pytest.mark.parametrize("end", [b'{"id":"ba', b'{"id":"batch_req_01', b"", b"\0\0", b'{"id":"batch_req_01","cus\0\0'])
def test_the_beginning_of_a_line_is_what_may_be_left_of_one(end: bytes) -> None:
    assert is_torn(end)


@pytest.mark.parametrize("end", [b"Dear diary", b'{"id":"x'])
def test_what_no_line_begins_with_is_not(end: bytes) -> None:
    assert not is_torn(end)


# --- files ------------------------------------------------------------------------------------------------------------


def entries(reader: Any, data: bytes) -> List[Any]:
    return [(number, said(read)) for number, _, read in reader(Lines(io.BytesIO(data)))]


def said(read: Any) -> Any:
    """What a line says, or what is wrong with it."""
    try:
        return read()
    except RequestError as error:
        return str(error)


def test_jsonl_with_blank_and_bad_lines() -> None:
    data = b'\xef\xbb\xbf{"a": 1}\r\n\n[]\n{"a": NaN}\n{"a"\n{"a":"\xff"}\n{"a": 2}'
    found = entries(read_jsonl, data)
    assert found[0] == (1, {"a": 1})
    assert found[1] == (3, "a line is an object, not list")
    assert found[2] == (4, "not JSON: NaN is not a number in JSON")
    assert found[3][1].startswith("not JSON: ")
    assert found[4:] == [(6, "not UTF-8"), (7, {"a": 2})]


def test_text_has_a_prompt_a_line() -> None:
    assert entries(read_text, b"\xef\xbb\xbfone\r\n\n two \n\xff") == [(1, "one"), (3, " two "), (4, "not UTF-8")]


def test_a_line_that_is_too_long_is_an_error_and_the_next_one_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    from flynn.batch import sources

    monkeypatch.setattr(sources, "MAX_LINE", 10)
    for start in b"", b"\xef\xbb\xbf":
        for length in 11, 12, 14, 35:
            found = entries(read_text, start + b"x" * length + b"\nnext\n")
            assert found == [(1, "more than 10 bytes"), (2, "next")]
        assert entries(read_text, start + b"x" * 10 + b"\n") == [(1, "x" * 10)]


def test_csv_rows_are_values() -> None:
    data = 'name,text\nA,"two\nlines"\n\nB,ü\nC\n'.encode() + b"D,\xff\n"
    found = entries(read_values, data)
    assert found[:2] == [(3, {"name": "A", "text": "two\nlines"}), (5, {"name": "B", "text": "ü"})]
    assert "not as many values as the header, which has 2" in found[2][1]
    assert found[3][1] == "not UTF-8"


def test_values_may_be_json_lines() -> None:
    assert entries(read_values, b'{"a": 1}\n{"a": 2}\n') == [(1, {"a": 1}), (2, {"a": 2})]
    assert entries(read_values, b"") == []
    assert entries(read_table, b"") == []


def test_a_template_takes_values() -> None:
    template = Template("To {{ name }}: {{text}} {json: {{n}}} {{name}}")
    row = {"name": "A {{text}}", "text": "t", "n": [1, "ü"], "custom_id": "id"}
    prompt = 'To A {{text}}: t {json: [1, "ü"]} A {{text}}'
    assert said(template.entry((1, b"", lambda: row))[2]) == {"prompt": prompt, "custom_id": "id"}
    assert "no value for {{text}}; there is: name" in said(template.entry((1, b"", lambda: {"name": "A"}))[2])


def test_a_template_without_a_place_is_refused() -> None:
    with pytest.raises(RequestError, match="has no {{name}}"):
        Template("Hello {name}")


def read(data: bytes, done: Done, defaults: Defaults = NOTHING) -> List[Any]:
    return list(requests(read_jsonl(Lines(io.BytesIO(data))), defaults, done, file="in.jsonl"))


def recorded(data: bytes) -> Done:
    done = Done()
    for request in read(data, Done()):
        assert done.add(json.dumps(request.custom_id).encode(), request.digest.encode())
    return done


LINES = b'{"prompt": "a"}\n{"custom_id": "x", "prompt": "b"}\n'


def test_what_has_a_result_is_not_asked_again() -> None:
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
        '{"custom_id": "first", "prompt": "a", "custom_id": "last"}',
        '{"prompt": "a", "metadata": {"custom_id": "inner"}}',
        '{"messages": [{"role": "user", "content": "a", "custom_id": "inner"}], "custom_id": "outer"}',
        r'{"prompt": "say \"custom_id\": \"x\""}',
        '{"custom_id": null, "prompt": "request-1"}',
    ],
)
def test_a_line_that_is_done_is_known_however_its_id_is_written(line: str) -> None:
    lines = f'{{"prompt": "before"}}\n{line}\n'.encode()
    done = recorded(lines)
    assert read(lines, done) == []
    assert done.left == 0


def test_the_id_that_a_line_seems_to_have_is_not_taken_for_the_one_that_it_has() -> None:
    inner = b'{"prompt": "a", "metadata": {"custom_id": "x"}}\n'
    done = recorded(b'{"custom_id": "x", "prompt": "b"}\n')
    assert [request.custom_id for request in read(inner, done)] == ["request-1"]
    assert done.left == 1


def test_lines_with_ids_may_change_their_order() -> None:
    lines = b'{"custom_id": "x", "prompt": "b"}\n{"custom_id": "y", "prompt": "b"}\n'
    assert read(b"\n".join(reversed(lines.splitlines())), recorded(lines)) == []


def test_a_line_that_changed_is_told() -> None:
    with pytest.raises(FileError, match=r"in.jsonl:2: 'x' has a result already, but of something else"):
        read(LINES.replace(b'"b"', b'"B"'), recorded(LINES))


def test_options_that_changed_are_told() -> None:
    with pytest.raises(FileError, match=r"in.jsonl:1: 'request-1' has a result already"):
        read(LINES, recorded(LINES), Defaults("another system prompt"))


def test_results_that_nobody_asked_for_are_counted() -> None:
    done = recorded(LINES)
    read(b'{"prompt": "a"}', done)
    assert done.left == 1


def test_an_id_that_comes_twice_is_an_error() -> None:
    first, second = read(b'{"custom_id": "x", "prompt": "a"}\n' * 2, Done())
    assert first.custom_id == "x"
    assert (second.custom_id, second.number) == (None, 2)
    assert str(second.error) == "the custom_id 'x' is that of an earlier line"


# --- order and memory -------------------------------------------------------------------------------------------------


def test_a_table_holds_what_it_was_given() -> None:
    table = IdTable()
    values = {hash(b"%d" % n): b"%8d" % n for n in range(20_000)}
    values.update({n << 16: b"%8d" % n for n in range(100)})  # all in one bucket
    assert {table.swap(key, value) for key, value in values.items()} == {b""}
    for key, value in values.items():
        assert not table.replace(key, b"not that", b"nor that")
        assert table.replace(key, value, b"replaced")
        assert table.swap(key, value) == b"replaced"
    assert all(table.swap(key, b"        ") == value for key, value in values.items())


def bodies(*texts: str) -> List[Task]:
    return [Task(Request(text, "/x", text.encode())) for text in texts]


def test_each_worker_has_its_own_part_in_order() -> None:
    window = Window(bodies(*"db" "ca"))
    taken = [window.take(worker) for worker in (1, 2, 1, 2)]
    assert [task.request.custom_id for task in taken if task] == ["a", "c", "b", "d"]
    assert window.take(1) is window.take(2) is None
    assert window.left == 0


def test_parts_are_cut_where_beginnings_differ() -> None:
    window = Window(bodies(*(f"{text}{n}" for text in ("aaaa", "bbbb") for n in range(3)), "bbbb3", "bbbb4"))
    first, second = window.take(1), window.take(2)
    assert first
    assert second
    assert (first.request.custom_id, second.request.custom_id) == ("aaaa0", "bbbb0")


def test_all_are_taken_once_by_any_number_of_workers() -> None:
    for workers in (1, 3, 7, 50):
        window = Window(bodies(*map(str, range(101))))
        taken = []
        for turn in range(200 * workers):
            task = window.take(turn % workers)
            if task:
                taken.append(task.request.custom_id)
        assert sorted(taken) == sorted(map(str, range(101)))


def test_the_tally_tells_how_it_goes() -> None:
    tally = Tally()
    tally.before = 2
    usage = b'{"usage":{"prompt_tokens":5,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":3}}}'
    tally.add(success(ASKED, usage))
    tally.add(failure(ASKED, ServerError("x", status=400)))
    assert tally.line(10.0).startswith("3 done, 1 failed, ")
    assert tally.line(10.0).endswith(" left")
    assert tally.summary().startswith("3 done (2 of them before), 1 failed, 5 tokens in (3 cached), 2 out, ")
    names = ("done", "done_before", "failed", "prompt_tokens", "cached_tokens", "completion_tokens")
    assert [tally.report()[name] for name in names] == [1, 2, 1, 5, 3, 2]
