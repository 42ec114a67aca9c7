import pytest

from workers.engine.frontend import Frontend
from workers.engine.profile import FrontendCosts

COSTS = FrontendCosts(secs=0.01, free_tokens=100, token_secs=0.001, busy_secs=0.004, busy_token_secs=0.0001)


def test_a_lone_request_takes_its_time_and_that_of_its_tokens() -> None:
    assert Frontend(COSTS).reaches_engine_at(5.0, 100) == pytest.approx(5.01)
    assert Frontend(COSTS).reaches_engine_at(5.0, 300) == pytest.approx(5.21)


def test_requests_pass_one_after_the_other() -> None:
    frontend = Frontend(COSTS)
    assert [frontend.reaches_engine_at(5.0, 10) for _ in range(3)] == pytest.approx([5.01, 5.015, 5.02])
    assert frontend.reaches_engine_at(6.0, 10) == pytest.approx(6.01)


def test_a_short_prompt_may_overtake_a_long_one() -> None:
    frontend = Frontend(COSTS)
    assert frontend.reaches_engine_at(0.0, 1000) > frontend.reaches_engine_at(0.0, 10)
