"""What one router has tokenized no other tokenizes again: conversations whose turns are spread over four processes."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.models import make_model
from tests.support.readers import Reading, make_spec
from tests.support.stores import make_segment
from tests.support.token_workers import TokenWorker

PROCESSES = 4
TURNS = 20
KIND = "qwen"
SHARE = 0.95


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models")
    make_model(directory / KIND, KIND)
    return directory


@pytest.fixture
def workers(directory: Path) -> Iterator[list[TokenWorker]]:
    segment = make_segment(64 << 20)
    workers = [TokenWorker(segment, directory, KIND) for _ in range(PROCESSES)]
    yield workers
    for worker in workers:
        worker.end()


def sentence(rng: random.Random, size: int) -> str:
    words = ("what", "does", "an", "Envoy", "do", "with", "a", "request?", "naïve", "日本", "\n", "1024")
    text = ""
    while len(text.encode()) < size:
        text += rng.choice(words) + " "
    return text


def plain_reading(directory: Path) -> Reading:
    return Reading(make_spec(directory, KIND))


def test_a_growing_conversation_is_encoded_turn_by_turn(directory: Path, workers: list[TokenWorker]) -> None:
    rng = random.Random(1)
    plain = plain_reading(directory)
    messages: list[dict[str, Any]] = []
    before = 0
    for turn in range(TURNS):
        messages.append({"role": "user", "content": sentence(rng, 400)})
        # No two turns in a row go to the same process.
        found = workers[turn % PROCESSES].read(messages)
        reference = plain.chat(KIND, messages)
        assert found["ids"] == reference.ids.tolist()
        if turn:
            assert found["cache"] == "level_1"
            assert found["reused"] >= SHARE * before, turn
        before = found["bytes"]
        messages.append({"role": "assistant", "content": sentence(rng, 400)})


def test_a_conversation_with_a_long_beginning_reuses_nearly_all_of_its_bytes(workers: list[TokenWorker]) -> None:
    rng = random.Random(2)
    messages = [{"role": "system", "content": sentence(rng, 40_000)}]
    for turn in range(TURNS):
        messages.append({"role": "user", "content": sentence(rng, 100)})
        found = workers[rng.randrange(PROCESSES)].read(messages)
        if turn:
            assert found["reused"] >= SHARE * found["bytes"], turn
        messages.append({"role": "assistant", "content": sentence(rng, 100)})


def test_a_shared_system_prompt_that_comes_after_other_traffic_is_encoded_once(
    directory: Path, workers: list[TokenWorker]
) -> None:
    rng = random.Random(3)
    plain = plain_reading(directory)
    for number in range(40):
        workers[number % PROCESSES].read([{"role": "user", "content": sentence(rng, 2000)}])
    system = {"role": "system", "content": sentence(rng, 64 * 1024)}
    workers[0].read([system, {"role": "user", "content": sentence(rng, 300)}])
    for user in range(12):
        messages = [system, {"role": "user", "content": sentence(rng, 300)}]
        found = workers[user % PROCESSES].read(messages)
        assert found["cache"] == "level_1"
        assert found["reused"] >= SHARE * found["bytes"]
        assert found["reused"] >= SHARE * len(system["content"].encode())
        reference = plain.chat(KIND, messages)
        assert found["ids"] == reference.ids.tolist()


def test_the_same_request_at_another_process_is_known_as_a_whole(workers: list[TokenWorker]) -> None:
    messages = [{"role": "user", "content": "the same for everybody"}]
    found = [worker.read(messages) for worker in workers]
    assert [answer["cache"] for answer in found] == ["miss", "level_0", "level_0", "level_0"]
    assert all(answer["ids"] == found[0]["ids"] and answer["hashes"] == found[0]["hashes"] for answer in found)
