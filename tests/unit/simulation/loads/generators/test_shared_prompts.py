"""``shared_prompts``: 200 tenants by a Zipf law."""

from collections import Counter

import numpy as np

from extproc.simulation.loads.generators.shared_prompts import SharedPrompts


def test_it_is_as_its_parameters_say() -> None:
    sessions = list(SharedPrompts(requests=20_000).sessions())
    tenants = Counter(session.key for session in sessions)
    assert len(tenants) == 200
    (_, most), *_ = tenants.most_common()
    assert abs(most / 20_000 - 0.17) < 0.02
    assert abs(np.mean([session.turns[0].answer_tokens for session in sessions]) - 150) < 5
    shortest: dict[str, int] = {}
    for session in sessions:
        shortest[session.key] = min(session.turns[0].prompt_tokens, shortest.get(session.key, 10**9))
    assert 2500 < min(shortest.values()) < 3000
    assert 7500 < max(shortest.values()) < 8200
