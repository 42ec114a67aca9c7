"""The four APIs that answer with text, over a real server."""

import itertools
import json
from typing import Any

import aiohttp
import openai
import pytest

from tests.support.simulated_worker import SimulatedWorker

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hello there"}]}
COMPLETION = {"model": "tiny", "prompt": "hello there"}
RESPONSE = {"model": "tiny", "input": "hello there"}
MESSAGE = {"model": "tiny", "max_tokens": 3, "messages": [{"role": "user", "content": "hello there"}]}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": COMPLETION,
    "/v1/responses": RESPONSE,
    "/v1/messages": MESSAGE,
}


def post(
    worker: SimulatedWorker, path: str, body: dict[str, Any], headers: dict[str, str] | None = None
) -> tuple[int, Any]:
    status, answer = worker.call("POST", path, json.dumps(body).encode(), headers=headers)
    return status, json.loads(answer)


def events(worker: SimulatedWorker, path: str, body: dict[str, Any]) -> list[tuple[str, Any]]:
    """The stream's events as (name, data); data is text where it is not JSON."""
    status, answer = worker.call("POST", path, json.dumps(body | {"stream": True}).encode())
    assert status == 200, answer
    blocks = answer.decode().removesuffix("\n\n").split("\n\n")
    parsed: list[tuple[str, Any]] = []
    for block in blocks:
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        data = fields["data"]
        parsed.append((fields.get("event", ""), data if data == "[DONE]" else json.loads(data)))
    return parsed


def test_the_openai_client_gets_a_chat_completion(worker: SimulatedWorker) -> None:
    with openai.OpenAI(base_url=f"{worker.url}/v1", api_key="none") as client:
        answer = client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "hello there"}], max_completion_tokens=3
        )

    assert answer.choices[0].message.content == " t1 t2 t3"
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 3)
    assert (answer.object, answer.model, answer.system_fingerprint) == ("chat.completion", "tiny", "w1")


def test_the_openai_client_gets_a_chat_stream(worker: SimulatedWorker) -> None:
    with openai.OpenAI(base_url=f"{worker.url}/v1", api_key="none") as client:
        stream = client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": "hello there"}],
            max_tokens=3,
            stream=True,
            stream_options={"include_usage": True},
        )
        first, *tokens, finish, usage = list(stream)

    assert first.choices[0].delta.role == "assistant"
    assert [chunk.choices[0].delta.content for chunk in tokens] == [" t1", " t2", " t3"]
    assert finish.choices[0].finish_reason == "length"
    assert usage.choices == []
    assert usage.usage is not None
    assert usage.usage.total_tokens == 6
    assert {chunk.id for chunk in (first, *tokens, finish, usage)} == {first.id}


def test_the_openai_client_gets_completions_and_responses(worker: SimulatedWorker) -> None:
    with openai.OpenAI(base_url=f"{worker.url}/v1", api_key="none") as client:
        completion = client.completions.create(model="tiny", prompt=["one", "two"], max_tokens=2)
        response = client.responses.create(model="tiny", input="hello there", max_output_tokens=2)
        streamed = list(client.responses.create(model="tiny", input="hello there", stream=True))

    assert [choice.text for choice in completion.choices] == [" t1 t2", " t1 t2"]
    assert (response.output_text, response.status) == (" t1 t2", "incomplete")
    assert streamed[0].type == "response.created"
    assert streamed[-1].type == "response.completed"


@pytest.mark.parametrize("path", BODIES)
def test_every_answer_names_the_worker(worker: SimulatedWorker, path: str) -> None:
    status, answer = post(worker, path, BODIES[path])

    assert (status, answer["system_fingerprint"], answer["model"]) == (200, "w1", "tiny")


def test_a_chat_stream_is_role_tokens_finish_and_end_mark(worker: SimulatedWorker) -> None:
    chunks = [data for _, data in events(worker, "/v1/chat/completions", CHAT | {"max_tokens": 2})]

    assert [chunk["choices"][0]["delta"] for chunk in chunks[:-1]] == [
        {"role": "assistant", "content": ""},
        {"content": " t1"},
        {"content": " t2"},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]] == [None, None, None, "length"]
    assert chunks[-1] == "[DONE]"


def test_a_completion_stream_ends_in_usage_and_end_mark(worker: SimulatedWorker) -> None:
    body = COMPLETION | {"prompt": [[1, 2, 3], [4]], "max_tokens": 1, "stream_options": {"include_usage": True}}
    chunks = [data for _, data in events(worker, "/v1/completions", body)]

    assert [(chunk["choices"][0]["index"], chunk["choices"][0]["text"]) for chunk in chunks[:2]] == [
        (0, " t1"),
        (1, " t1"),
    ]
    assert chunks[-2]["choices"] == []
    assert chunks[-2]["usage"]["prompt_tokens"] == 4
    assert chunks[-2]["usage"]["completion_tokens"] == 2
    assert chunks[-1] == "[DONE]"


def test_a_message_stream_has_anthropics_events(worker: SimulatedWorker) -> None:
    stream = events(worker, "/v1/messages", MESSAGE | {"max_tokens": 2})

    assert [name for name, _ in stream] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert all(name == data["type"] for name, data in stream)
    assert stream[5][1]["delta"]["stop_reason"] == "max_tokens"


def test_a_response_stream_is_numbered_without_gaps(worker: SimulatedWorker) -> None:
    stream = events(worker, "/v1/responses", RESPONSE | {"max_output_tokens": 3})

    assert [data["sequence_number"] for _, data in stream] == list(range(len(stream)))
    deltas = [data["delta"] for name, data in stream if name == "response.output_text.delta"]
    assert "".join(deltas) == stream[-1][1]["response"]["output"][0]["content"][0]["text"] == " t1 t2 t3"


def test_the_answers_length_follows_limit_header_and_default(worker: SimulatedWorker) -> None:
    path = "/v1/chat/completions"
    cases = {
        (None, None): (16, "stop"),
        (5, None): (5, "length"),
        (None, "7"): (7, "stop"),
        (5, "7"): (5, "length"),
        (7, "5"): (5, "stop"),
    }
    for (limit, header), expected in cases.items():
        body = CHAT if limit is None else CHAT | {"max_tokens": limit}
        status, answer = post(worker, path, body, None if header is None else {"x-sim-tokens": header})
        assert status == 200
        assert (answer["usage"]["completion_tokens"], answer["choices"][0]["finish_reason"]) == expected


def test_several_choices_are_counted(worker: SimulatedWorker) -> None:
    _, answer = post(worker, "/v1/chat/completions", CHAT | {"n": 3, "max_tokens": 2})

    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert answer["usage"]["completion_tokens"] == 6


def test_an_unknown_model_is_answered_404_in_vllms_shape(worker: SimulatedWorker) -> None:
    status, answer = post(worker, "/v1/chat/completions", CHAT | {"model": "huge"})

    assert status == 404
    assert answer == {
        "error": {
            "message": "The model `huge` does not exist.",
            "type": "NotFoundError",
            "param": "model",
            "code": 404,
        }
    }


def test_an_alias_and_a_missing_model_are_served(worker: SimulatedWorker) -> None:
    assert post(worker, "/v1/chat/completions", CHAT | {"model": "alias"})[1]["model"] == "alias"
    assert post(worker, "/v1/chat/completions", {"messages": CHAT["messages"]})[1]["model"] == "tiny"


def test_anthropics_path_has_its_own_error_shape(worker: SimulatedWorker) -> None:
    status, answer = post(worker, "/v1/messages", MESSAGE | {"model": "huge"})

    assert (status, answer["type"], answer["error"]["type"]) == (404, "error", "NotFoundError")


@pytest.mark.parametrize(
    ("path", "body", "headers", "names"),
    [
        ("/v1/chat/completions", b"{", {}, "The body cannot be read"),
        ("/v1/chat/completions", b"", {}, "The body cannot be read"),
        ("/v1/chat/completions", b"\xff", {}, "The body cannot be read"),
        ("/v1/chat/completions", b'{"messages":"hi"}', {}, "$.messages"),
        ("/v1/chat/completions", b'{"messages":[]}', {}, "`messages` is empty"),
        ("/v1/chat/completions", b'{"messages":[{"role":"user"}],"max_tokens":0}', {}, "$.max_tokens"),
        ("/v1/chat/completions", b'{"messages":[{"role":"user"}],"max_tokens":100001}', {}, "at most 100000"),
        ("/v1/completions", b'{"model":"tiny"}', {}, "`prompt`"),
        ("/v1/completions", b'{"prompt":"x","n":128,"max_tokens":100000}', {}, "together"),
        ("/v1/messages", b'{"messages":[{"role":"user","content":"x"}]}', {}, "`max_tokens`"),
        ("/v1/responses", b'{"input":""}', {}, "`input` is empty"),
        ("/v1/completions", b'{"prompt":"x"}', {"x-sim-tokens": "0"}, "x-sim-tokens"),
        ("/v1/completions", b'{"prompt":"x"}', {"x-sim-tokens": "9999999999"}, "x-sim-tokens"),
        ("/v1/completions", b'{"prompt":"x"}', {"x-sim-ttft-secs": "nan"}, "x-sim-ttft-secs"),
        ("/v1/completions", b'{"prompt":"x"}', {"x-sim-token-secs": "soon"}, "x-sim-token-secs"),
    ],
)
def test_unusable_requests_are_answered_400_naming_the_fault(
    worker: SimulatedWorker, path: str, body: bytes, headers: dict[str, str], names: str
) -> None:
    status, answer = worker.call("POST", path, body, headers=headers)

    assert status == 400
    assert names in json.loads(answer)["error"]["message"]


async def test_tokens_arrive_one_by_one(worker: SimulatedWorker) -> None:
    """The answer stalls after two tokens, and those two must have been sent by then."""
    worker.behave(stall_after_tokens=2)
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{worker.url}/v1/completions", json=COMPLETION | {"stream": True, "max_tokens": 3}) as response,
    ):
        lines = response.content
        early = [json.loads((await lines.readline()).removeprefix(b"data: ")), await lines.readline()]
        early += [json.loads((await lines.readline()).removeprefix(b"data: ")), await lines.readline()]
        assert [chunk["choices"][0]["text"] for chunk in itertools.islice(early, 0, None, 2)] == [" t1", " t2"]
        assert worker.requests()["in_flight"] == 1
        worker.behave()
        rest = await lines.read()

    assert b'" t3"' in rest
    assert rest.endswith(b"data: [DONE]\n\n")
