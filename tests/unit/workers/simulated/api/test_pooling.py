"""Paths that generate no text, over a real server."""

import json
from typing import Any

import openai
import pytest

from tests.support.simulated_worker import SimulatedWorker


def post(worker: SimulatedWorker, path: str, body: dict[str, Any]) -> tuple[int, Any]:
    status, answer = worker.call("POST", path, json.dumps(body).encode())
    return status, json.loads(answer)


def test_the_openai_client_gets_embeddings_in_both_encodings(worker: SimulatedWorker) -> None:
    with openai.OpenAI(base_url=f"{worker.url}/v1", api_key="none") as client:
        packed = client.embeddings.create(model="tiny", input=["one", "a longer text"])
        plain = client.embeddings.create(model="tiny", input=["one", "a longer text"], encoding_format="float")

    assert [item.embedding for item in packed.data] == [item.embedding for item in plain.data]
    assert len({tuple(item.embedding) for item in plain.data}) == 2
    assert plain.usage.prompt_tokens == 5


def test_pooling_answers_one_vector_an_input(worker: SimulatedWorker) -> None:
    status, answer = post(worker, "/pooling", {"model": "tiny", "input": ["one", "two", "three"]})

    assert status == 200
    assert [(item["index"], item["object"], len(item["data"])) for item in answer["data"]] == [
        (0, "pooling", 8),
        (1, "pooling", 8),
        (2, "pooling", 8),
    ]


def test_score_compares_one_text_with_each(worker: SimulatedWorker) -> None:
    status, answer = post(worker, "/score", {"model": "tiny", "text_1": "abcd", "text_2": ["abcd", "abcdefghij"]})

    assert status == 200
    assert [item["score"] for item in answer["data"]] == [1.0, pytest.approx(1 / 3, abs=1e-6)]
    assert answer["system_fingerprint"] == "w1"


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_rerank_sorts_by_falling_score(worker: SimulatedWorker, path: str) -> None:
    documents = ["a document far from the query", "abcd", {"content": [{"type": "text", "text": "abcdefgh"}]}]
    status, answer = post(worker, path, {"model": "tiny", "query": "abcd", "documents": documents, "top_n": 2})

    assert status == 200
    assert [result["index"] for result in answer["results"]] == [1, 2]
    assert answer["results"][0]["document"]["text"] == "abcd"


@pytest.mark.parametrize(
    "body",
    [{"prompt": "abcdefgh"}, {"messages": [{"role": "user", "content": "abcdefgh"}]}],
    ids=["prompt", "messages"],
)
def test_tokenize_answers_ids(worker: SimulatedWorker, body: dict[str, Any]) -> None:
    status, answer = post(worker, "/tokenize", body)

    assert status == 200
    assert answer["count"] == len(answer["tokens"]) == 2
    assert answer["tokens"][0] == int.from_bytes(b"abcd", "little")


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/embeddings", {"model": "tiny"}, "input"),
        ("/v1/embeddings", {"model": "tiny", "input": []}, "input"),
        ("/score", {"text_1": "x"}, "text_2"),
        ("/score", {"text_1": ["x", "y"], "text_2": ["x", "y", "z"]}, "text_1"),
        ("/v1/rerank", {"query": "x", "documents": []}, "documents"),
        ("/tokenize", {"model": "tiny"}, "prompt"),
    ],
)
def test_unusable_requests_are_answered_400_naming_the_field(
    worker: SimulatedWorker, path: str, body: dict[str, Any], param: str
) -> None:
    status, answer = post(worker, path, body)

    assert (status, answer["error"]["param"]) == (400, param)


def test_an_unknown_model_is_answered_404(worker: SimulatedWorker) -> None:
    assert post(worker, "/v1/embeddings", {"model": "huge", "input": "x"})[0] == 404
