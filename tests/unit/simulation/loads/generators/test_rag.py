"""``rag``: documents in any order, of which only the leading ones can be shared."""

from collections import Counter

import numpy as np
import pytest

from extproc.errors import ConfigurationError
from extproc.simulation.loads.generators.rag import Rag


def test_it_is_as_its_parameters_say() -> None:
    sessions = list(Rag(requests=10_000).sessions())
    assert len({session.key for session in sessions}) == len(sessions)
    prompts = np.array([session.turns[0].prompt_tokens for session in sessions])
    assert abs(prompts.mean() / (200 + 4 * 1500 + 60) - 1) < 0.1
    assert 0.1 < prompts.std() / prompts.mean() < 0.3
    assert abs(np.mean([session.turns[0].answer_tokens for session in sessions]) - 200) < 10


def test_popular_documents_are_asked_for_more_often_than_others() -> None:
    """The first whole block names the first document: the system prompt is shorter than a block."""
    firsts = Counter(int(session.turns[0].blocks[0]) for session in Rag(requests=10_000).sessions())
    ranked = [count for _, count in firsts.most_common()]
    assert 0.08 < ranked[0] / 10_000 < 0.16
    assert 900 < len(ranked) <= 2000


def test_deeper_documents_are_shared_less() -> None:
    """A corpus so small that everything would be shared if the order did not matter."""
    load = Rag(requests=5000, corpus=40, document_tokens=1500, exponent=0.0)
    turns = [session.turns[0] for session in load.sessions()]
    kinds = [len({int(turn.blocks[place]) for turn in turns if len(turn.blocks) > place + 1}) for place in (0, 4, 8)]
    assert kinds[0] == 40
    assert 20 * kinds[0] < kinds[1] < kinds[2]


def test_there_must_be_documents_to_choose_from() -> None:
    with pytest.raises(ConfigurationError, match=r"rag\.documents: must be 1 or at most a tenth of rag\.corpus \(39\)"):
        Rag(documents=4, corpus=39)
    assert Rag(documents=1, corpus=1, requests=3).secs == 0.1
