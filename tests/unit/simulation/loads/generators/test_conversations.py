"""Conversations: each prompt goes on from the one before it and its answer."""

import itertools

import pytest

from extproc.simulation.loads.generators.agents import Agents
from extproc.simulation.loads.generators.chat import Chat
from extproc.simulation.loads.generators.conversations import ConversationLoad

every_load = pytest.mark.parametrize("kind", [Chat, Agents], ids=lambda kind: kind.name)


@every_load
def test_a_turn_shares_exactly_the_whole_blocks_of_the_prompt_that_it_goes_on_from(
    kind: type[ConversationLoad],
) -> None:
    pairs = [pair for session in kind(requests=2000).sessions() for pair in itertools.pairwise(session.turns)]
    assert len(pairs) > 1000
    for before, after in pairs:
        assert after.prompt_tokens > before.prompt_tokens + before.answer_tokens
        whole = before.prompt_tokens // 512
        assert before.blocks[:whole].tolist() == after.blocks[:whole].tolist()
        assert not set(before.blocks[whole:].tolist()) & set(after.blocks.tolist())


@every_load
def test_sessions_share_their_beginning_and_nothing_else(kind: type[ConversationLoad]) -> None:
    """Two sessions have the same block only as far as the shortest first prompts of the load have it too."""
    sessions = list(kind(requests=2000).sessions())
    of_first_turns = {int(block) for session in sessions for block in session.turns[0].blocks}
    seen: set[int] = set()
    for session in sessions:
        own = {int(block) for turn in session.turns for block in turn.blocks}
        assert own & seen <= of_first_turns
        seen |= own


@every_load
def test_the_first_turn_comes_without_thinking(kind: type[ConversationLoad]) -> None:
    for session in kind(requests=2000).sessions():
        assert session.turns[0].think_secs == 0.0
        assert all(turn.think_secs > 0.0 for turn in session.turns[1:])


@every_load
def test_every_session_has_a_key_of_its_own(kind: type[ConversationLoad]) -> None:
    sessions = list(kind(requests=3000).sessions())
    assert len({session.key for session in sessions}) == len(sessions)
