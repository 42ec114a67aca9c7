"""``agents``: long shared prompts, many quick turns, long prompts."""

import numpy as np
import pytest

from extproc.errors import ConfigurationError
from extproc.simulation.loads.generators.agents import Agents


def test_it_is_as_its_parameters_say() -> None:
    sessions = list(Agents(requests=20_000).sessions())[:-1]
    counts = [len(session.turns) for session in sessions]
    assert (min(counts), max(counts)) == (8, 30)
    thinks = [turn.think_secs for session in sessions for turn in session.turns[1:]]
    assert 0.3 <= min(thinks) < 0.4
    assert 1.9 < max(thinks) <= 2.0
    added = np.array(
        [
            after.prompt_tokens - before.prompt_tokens - before.answer_tokens
            for session in sessions
            for before, after in zip(session.turns, session.turns[1:], strict=False)
        ]
    )
    assert abs(added.mean() - (0.9 * 800 + 0.1 * 6000)) < 60
    assert abs((added > 4000).mean() - 0.09) < 0.02
    longest = np.array([session.turns[-1].prompt_tokens for session in sessions])
    assert 25_000 < longest.mean() < 45_000
    assert longest.max() < 120_000


def test_each_agent_has_its_own_tools() -> None:
    sessions = list(Agents(requests=4000).sessions())
    assert len({int(session.turns[0].blocks[0]) for session in sessions}) == 8
    shared = sum(len(session.turns[0].blocks) for session in sessions) / len(sessions)
    assert 11 < shared < 17


def test_the_shortest_session_is_no_longer_than_the_longest() -> None:
    with pytest.raises(ConfigurationError, match=r"agents\.min_turns: must be at most agents\.max_turns \(30\)"):
        Agents(min_turns=31)
    assert len(next(iter(Agents(requests=7, min_turns=7, max_turns=7).sessions())).turns) == 7
