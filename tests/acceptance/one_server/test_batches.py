"""The main job, over HTTP, with the real client, on the real engine."""

import gzip
import json
import time
from typing import Any

import pytest
from openai import APIStatusError, BadRequestError, ConflictError, NotFoundError

from tests.acceptance.lines import assert_each_line_once, chat, chats, jsonl, results
from tests.acceptance.server import Server


def test_a_batch_runs_from_upload_to_output_file(server: Server) -> None:
    batch = server.finished(server.create(chats(150)).id)
    assert batch.status == "completed"
    assert_each_line_once(server, batch, [f"line-{number}" for number in range(150)])
    first = results(server, batch.output_file_id)[0]
    assert first["response"]["body"]["object"] == "chat.completion"
    assert first["response"]["body"]["choices"][0]["message"]["content"]
    assert batch.usage is not None and batch.usage.output_tokens == sum(
        line["response"]["body"]["usage"]["completion_tokens"] for line in results(server, batch.output_file_id)
    )


def test_the_client_does_everything_that_openai_documents(server: Server) -> None:
    client = server.client
    batch = client.batches.create(
        input_file_id=server.upload(chats(3), "päckchen.jsonl"),
        endpoint="/v1/chat/completions",
        completion_window="24h",
        metadata={"job": "nightly"},
        output_expires_after={"anchor": "created_at", "seconds": 3600},
    )
    batch = server.finished(batch.id)
    assert batch.metadata == {"job": "nightly"}
    assert batch.output_file_id is not None
    output = client.files.retrieve(batch.output_file_id)
    assert output.purpose == "batch_output" and output.expires_at == output.created_at + 3600
    assert client.files.retrieve(batch.input_file_id).filename == "päckchen.jsonl"
    listed = [each.id for each in client.batches.list(limit=1)]
    assert batch.id in listed and len(listed) == len(set(listed))
    assert output.id in [each.id for each in client.files.list(purpose="batch_output")]
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "batchyard"
    assert client.files.delete(output.id).deleted
    with pytest.raises(NotFoundError):
        client.files.content(output.id)


def test_a_line_that_vllm_refuses_fails_alone_in_its_own_words(server: Server) -> None:
    lines = [chat("good"), chat("long", "word " * 3000), chat("bad", temperature=-3), chat("odd", n=10**400)]
    batch = server.finished(server.create(jsonl(lines)).id)
    errors = {line["custom_id"]: line for line in results(server, batch.error_file_id)}
    assert batch.status == "completed"
    assert sorted(errors) == ["bad", "long", "odd"]
    for line in errors.values():
        assert line["error"] is None
        assert line["response"]["status_code"] == 400
        assert line["response"]["body"]["error"]["message"]
    assert "1024" in errors["long"]["response"]["body"]["error"]["message"]
    assert_each_line_once(server, batch, [line["custom_id"] for line in lines])


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("/v1/completions", {"prompt": "def main", "max_tokens": 4}),
        ("/v1/responses", {"input": "Say something.", "max_output_tokens": 4}),
    ],
)
def test_batches_take_the_other_endpoints_too(server: Server, endpoint: str, body: dict[str, Any]) -> None:
    line = {"custom_id": "a", "method": "POST", "url": endpoint, "body": {"model": "tiny", **body}}
    batch = server.finished(server.create(jsonl([line]), endpoint).id)
    [answer] = results(server, batch.output_file_id)
    assert answer["response"]["status_code"] == 200
    assert batch.usage is not None and batch.usage.output_tokens > 0


def test_an_endpoint_that_the_model_does_not_serve_is_refused_with_those_that_it_serves(server: Server) -> None:
    line = {"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": {"model": "tiny", "input": "x"}}
    batch = server.finished(server.create(jsonl([line]), "/v1/embeddings").id)
    assert batch.status == "failed" and batch.errors is not None and batch.errors.data
    served = "It serves /v1/chat/completions, /v1/completions, /v1/responses."
    [fault] = batch.errors.data
    assert (fault.code, fault.param, fault.line) == ("endpoint_not_supported", "endpoint", None)
    assert fault.message == f"Model tiny does not serve /v1/embeddings. {served}"
    with pytest.raises(NotFoundError) as refused:
        server.client.embeddings.create(model="tiny", input="x")
    assert (refused.value.code, refused.value.param) == ("endpoint_not_supported", "model")
    assert served in refused.value.message


def test_members_that_vllm_would_ignore_are_refused_or_warned_of(server: Server) -> None:
    wrong = [chat("a"), chat("b", guided_choice=["yes", "no"])]
    batch = server.finished(server.create(jsonl(wrong)).id)
    assert batch.status == "failed" and batch.errors is not None and batch.errors.data
    [fault] = batch.errors.data
    assert (fault.code, fault.param, fault.line) == ("unsupported_parameter", "body.guided_choice", 2)
    with pytest.raises(BadRequestError, match="structured_outputs"):
        server.client.chat.completions.create(**chat("b")["body"], extra_body={"guided_choice": ["yes"]})

    right = [chat("a", structured_outputs={"choice": ["yes", "no"]}), chat("b", foo=1, top_k=5), chat("c", foo=2)]
    batch = server.finished(server.create(jsonl(right)).id)
    answer = results(server, batch.output_file_id)[0]["response"]["body"]["choices"][0]["message"]["content"]
    assert answer in ("yes", "no")
    [warning] = batch.model_dump()["warnings"]
    assert (warning["code"], warning["param"], warning["line"], warning["count"]) == (
        "unknown_parameter",
        "body.foo",
        2,
        2,
    )


def test_failed_lines_are_told_by_code_and_a_missing_tool_parser_in_the_words_of_our_config(server: Server) -> None:
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    asked = {"tools": [tool], "tool_choice": "required"}
    lines = [chat("good"), chat("tool", **asked), chat("long", "word " * 3000), chat("again", **asked)]
    batch = server.finished(server.create(jsonl(lines)).id)
    summary = batch.model_dump()["error_summary"]
    assert sum(each["count"] for each in summary) == 3
    [tools] = [each for each in summary if "tool_call_parser: NAME" in each["message"]]
    assert (tools["count"], tools["line"], tools["custom_id"]) == (2, 2, "tool")
    with pytest.raises(BadRequestError, match="enable_auto_tool_choice: true"):
        server.client.chat.completions.create(**chat("x")["body"], **asked)


def test_results_are_readable_while_the_batch_runs(server: Server) -> None:
    batch = server.create(chats(400, max_tokens=64, ignore_eos=True))
    running = server.follow(batch.id, lambda each: bool(each.request_counts and each.request_counts.completed > 20))
    partial = server.http.get(f"/v1/batches/{batch.id}/results").text
    assert running.status == "in_progress"
    lines = [json.loads(line) for line in partial.splitlines()]
    assert len(lines) > 20
    assert all(line["response"]["status_code"] == 200 for line in lines)
    batch = server.finished(batch.id)
    assert_each_line_once(server, batch, [f"line-{number}" for number in range(400)])


def test_cancel_keeps_what_is_done_and_names_the_rest(server: Server) -> None:
    ids = [f"line-{number}" for number in range(900)]
    batch = server.create(chats(900, max_tokens=64, ignore_eos=True))
    server.follow(batch.id, lambda each: bool(each.request_counts and each.request_counts.completed > 20))
    assert server.client.batches.cancel(batch.id).status == "cancelling"
    started = time.monotonic()
    batch = server.finished(batch.id)
    assert time.monotonic() - started < 10
    assert batch.status == "cancelled"
    errors = results(server, batch.error_file_id)
    assert {line["error"]["code"] for line in errors} == {"batch_cancelled"}
    assert len(errors) > 200
    assert_each_line_once(server, batch, ids)
    assert server.client.batches.cancel(batch.id).status == "cancelled"


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Go on."}], "max_tokens": 900}),
        ("/v1/completions", {"prompt": "Go on.", "max_tokens": 900}),
    ],
)
def test_cancel_stops_the_lines_inside_vllm(server: Server, endpoint: str, body: dict[str, Any]) -> None:
    """Told by the core's CPU time: it idles seconds after the cancel, though minutes of tokens were asked for."""
    line = {"method": "POST", "url": endpoint, "body": {"model": "tiny", "ignore_eos": True, **body}}
    batch = server.create(jsonl([{"custom_id": f"line-{number}", **line} for number in range(300)]), endpoint)
    [core] = [each for each in server.processes() if each.name().startswith("VLLM::Engine")]
    server.until(lambda: core.cpu_percent(0.5) > 80, 30)
    server.client.batches.cancel(batch.id)
    server.until(lambda: core.cpu_percent(1.0) < 40, 10)
    assert server.finished(batch.id).status == "cancelled"


def test_a_finished_batch_cannot_be_cancelled_and_the_client_does_not_try_again(server: Server) -> None:
    batch = server.finished(server.create(chats(1)).id)
    with pytest.raises(ConflictError) as refused:
        server.client.batches.cancel(batch.id)
    assert refused.value.response.headers["x-should-retry"] == "false"
    assert "completed" in refused.value.message


def test_a_file_that_a_running_batch_reads_is_not_deleted(server: Server) -> None:
    batch = server.create(chats(300, max_tokens=64, ignore_eos=True))
    with pytest.raises(ConflictError):
        server.client.files.delete(batch.input_file_id)
    server.client.batches.cancel(batch.id)
    server.finished(batch.id)
    assert server.client.files.delete(batch.input_file_id).deleted


HOSTILE = {
    "crlf": (jsonl([chat("a"), chat("b")]).replace(b"\n", b"\r\n"), ["a", "b"]),
    "blank last lines and no last newline": (
        jsonl([chat("a")]) + b"\n\n  \n" + json.dumps(chat("b")).encode(),
        ["a", "b"],
    ),
    "bom": (b"\xef\xbb\xbf" + jsonl([chat("a")]), ["a"]),
    "line separators inside a string": (
        json.dumps(chat("a\u2028b\u0085c", "x\u2028y\u0085z"), ensure_ascii=False).encode(),
        ["a\u2028b\u0085c"],
    ),
    "number of 400 digits": (jsonl([chat("a", seed=10**400), chat("b")]), ["a", "b"]),
    "duplicated key in the body": (
        json.dumps(chat("a")).encode().replace(b'"max_tokens": 8', b'"max_tokens": 8, "max_tokens": 4'),
        ["a"],
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_that_a_careless_reader_would_split_wrongly_runs_right(server: Server, name: str) -> None:
    data, ids = HOSTILE[name]
    batch = server.finished(server.create(data).id)
    assert batch.status == "completed"
    assert_each_line_once(server, batch, ids)


BROKEN = {
    "nul": (jsonl([chat("a")]) + b'{"custom_id": "b\x00"}\n', "invalid_json_line", 2),
    "invalid utf-8": (jsonl([chat("a")]) + b'{"custom_id": "\xff"}\n', "invalid_json_line", 2),
    "nan": (jsonl([chat("a")]) + jsonl([chat("b", temperature=float("nan"))]), "invalid_json_line", 2),
    "100,000 brackets": (b"[" * 100_000, "invalid_json_line", 1),
    "deep inside the body": (
        json.dumps(chat("a")).encode().replace(b'"max_tokens": 8', b'"x": ' + b"[" * 50_000 + b"]" * 50_000),
        "invalid_json_line",
        1,
    ),
    "20 MB line": (jsonl([chat("a", "x" * 20_000_000)]), "line_too_large", 1),
    "lone surrogate": (jsonl([chat("a", "\ud800")]), "invalid_json_line", 1),
    "duplicated custom_id key": (b'{"custom_id":"a","custom_id":"b"}\n', "invalid_json_line", 1),
    "duplicate custom_id": (jsonl([chat("a"), chat("a")]), "duplicate_custom_id", 2),
    "other model": (jsonl([chat("a"), chat("b", model="gpt-4o")]), "model_not_found", 2),
    "stream": (jsonl([chat("a", stream=True)]), "streaming_unsupported", 1),
    "empty": (b"", "empty_file", None),
    "gzip": (gzip.compress(jsonl([chat("a")])), "invalid_file_format", None),
    "array": (json.dumps([chat("a")]).encode(), "invalid_file_format", None),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_fails_with_the_code_and_the_line(server: Server, name: str) -> None:
    data, code, line = BROKEN[name]
    batch = server.finished(server.create(data).id)
    assert batch.status == "failed"
    assert batch.errors is not None and batch.errors.data
    fault = batch.errors.data[0]
    assert (fault.code, fault.line) == (code, line)
    assert fault.message


def test_online_requests_go_to_the_same_replicas(server: Server) -> None:
    answer = server.client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "Hi"}], max_tokens=4
    )
    assert answer.usage is not None and answer.usage.completion_tokens > 0
    stream = server.client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "Hi"}], max_tokens=6, stream=True
    )
    assert len(list(stream)) > 2
    assert server.client.completions.create(model="tiny", prompt="def", max_tokens=3).choices[0].finish_reason
    assert server.client.responses.create(model="tiny", input="Hi", max_output_tokens=3).id


def test_online_errors_are_vllms_own(server: Server) -> None:
    with pytest.raises(APIStatusError) as refused:
        server.client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "Hi"}], max_tokens=10**6
        )
    assert refused.value.status_code == 400
    assert "max_tokens" in refused.value.message


def test_the_ray_dashboard_names_the_deployments(server: Server) -> None:
    titles = {name for name in ("Gateway", "Dispatcher", "Engine:tiny") if server.replicas(name)}
    assert titles == {"Gateway", "Dispatcher", "Engine:tiny"}
