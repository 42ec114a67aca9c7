"""More users at once, who do not think faster."""

import math

import pytest

from extproc.errors import ConfigurationError
from extproc.simulation.loads.generators.chat import Chat
from extproc.simulation.loads.scaled import scaled


def test_sessions_start_sooner_and_are_the_same_otherwise() -> None:
    load = Chat(requests=300)
    faster = scaled(load, 4.0)
    assert (faster.name, faster.requests, faster.secs) == (load.name, 300, load.secs / 4.0)
    for one, other in zip(load.sessions(), faster.sessions(), strict=True):
        assert other.starts_at == one.starts_at / 4.0
        assert other.key == one.key
        for before, after in zip(one.turns, other.turns, strict=True):
            assert before.think_secs == after.think_secs
            assert before.blocks.tolist() == after.blocks.tolist()


def test_a_load_can_be_slowed_down() -> None:
    load = Chat(requests=300)
    assert scaled(load, 0.5).secs == 2 * load.secs


def test_the_same_speed_is_the_same_load() -> None:
    load = Chat(requests=3)
    assert scaled(load, 1.0) is load


@pytest.mark.parametrize("speed_up", [0.0, -1.0, math.nan, math.inf])
def test_a_speed_that_is_none_is_refused(speed_up: float) -> None:
    with pytest.raises(ConfigurationError, match="speed_up: must be a number above 0"):
        scaled(Chat(requests=3), speed_up)


def test_a_load_is_not_slowed_down_beyond_measure() -> None:
    with pytest.raises(ConfigurationError, match="speed_up: the load would take more than 366 days"):
        scaled(Chat(requests=3), 1e-30)
