import json
from typing import Any

import pytest

from extproc.api.body import decode
from extproc.api.openai_chat import decoder
from extproc.api.openai_embeddings import decoder as embeddings
from extproc.api.request import RoutingRequest
from extproc.policies.base import Choice, Reason
from extproc.routing.patience import Patience
from extproc.shm.worker_table import Engine
from tests.support.fleets import Shared, prompt, worker


def limit(shared: Shared, base_secs: float = 10.0, *, tokens: int = 100, **fields: object) -> int:
    body = decode(decoder, json.dumps({"model": "m", "messages": [], **fields}).encode())
    request = RoutingRequest(method="POST", path="/", headers={}, body=body, prompts=(prompt(tokens),))
    flight = shared.accounts().start(request, Choice((worker(1),), Reason.RANDOM), record=False)
    return Patience(table=shared.table, base_secs=base_secs).attempt_secs(request, flight)


def test_a_streamed_answer_has_the_base_and_four_times_its_prompt() -> None:
    assert limit(Shared(), tokens=100, stream=True) == 20
    assert limit(Shared(), tokens=40_000, stream=True) == 80, "9.2 s at the rate that is taken until more is known"


def test_the_prompts_before_it_give_it_more_time() -> None:
    shared = Shared()
    assert [limit(shared, tokens=40_000, stream=True) for _ in range(3)] == [80, 160, 160]


def test_a_whole_answer_has_four_times_its_tokens_besides() -> None:
    """1,000 tokens of at least 50 ms: 50 s; with 10 s of base, 210 s, which is doubled up to."""
    assert limit(Shared(), max_tokens=1000) == 320


def test_a_slow_engine_has_more_time() -> None:
    shared = Shared()
    shared.table.engines[1, Engine.DECODE_STEP_SECS] = 0.5
    assert limit(shared, max_tokens=100) == 320


@pytest.mark.parametrize("fields", [{}, {"max_tokens": 1_000_000}], ids=["length unknown", "over an hour"])
def test_what_may_take_for_ever_has_no_limit(fields: dict[str, Any]) -> None:
    assert limit(Shared(), **fields) == 0


def test_zero_is_no_limit() -> None:
    assert limit(Shared(), 0.0, stream=True) == 0


def test_a_request_whose_body_is_not_read_has_no_limit() -> None:
    shared = Shared()
    request = RoutingRequest(method="POST", path="/", headers={})
    flight = shared.accounts().start(request, Choice((worker(1),), Reason.RANDOM), record=False)
    assert Patience(table=shared.table, base_secs=10).attempt_secs(request, flight) == 0


def test_a_request_without_an_answer_of_tokens_has_that_of_its_prompt() -> None:
    shared = Shared()
    body = decode(embeddings, b'{"model": "m", "input": "x"}')
    request = RoutingRequest(method="POST", path="/", headers={}, body=body, prompts=(prompt(10),))
    flight = shared.accounts().start(request, Choice((worker(1),), Reason.RANDOM), record=False)
    assert Patience(table=shared.table, base_secs=10).attempt_secs(request, flight) == 20
