"""``chat``: short shared prompts, a few turns, slow people."""

import numpy as np

from extproc.simulation.loads.generators.chat import Chat


def test_it_is_as_its_parameters_say() -> None:
    sessions = list(Chat(requests=20_000).sessions())
    turns = [turn for session in sessions for turn in session.turns]
    counts = np.array([len(session.turns) for session in sessions])
    assert abs(counts.mean() - 5.0) < 0.25
    assert abs((counts == 1).mean() - 0.2) < 0.02
    thinks = [turn.think_secs for session in sessions for turn in session.turns[1:]]
    assert abs(np.mean(thinks) - 8.0) < 0.4
    assert abs(np.mean([turn.answer_tokens for turn in turns]) - 250) < 10
    firsts = np.array([session.turns[0].prompt_tokens for session in sessions])
    assert 800 < firsts.mean() < 1150


def test_there_are_as_many_beginnings_as_assistants() -> None:
    load = Chat(requests=2000, assistants=4, system_tokens=1200)
    firsts = [int(session.turns[0].blocks[0]) for session in load.sessions()]
    counts = [firsts.count(first) for first in set(firsts)]
    assert len(counts) == 4
    assert min(counts) > len(firsts) / 8


def test_sessions_start_at_the_rate_divided_by_their_turns() -> None:
    load = Chat(requests=20_000, rate=100.0, turns=4.0)
    starts = [session.starts_at for session in load.sessions()]
    assert abs(len(starts) / load.secs - 25.0) < 1.0
