import random
from collections import Counter

from extproc.policies.base import PolicyContext
from extproc.policies.random import Random
from tests.support.fleets import Turns, workers
from tests.unit.policies.test_family import REQUEST


def test_fall_backs_are_as_random_as_the_first_choice() -> None:
    policy = Random(PolicyContext(max_endpoints=2, rng=random.Random(3), turns=Turns()))
    pairs = Counter(tuple(w.id for w in policy.choose(REQUEST, workers(3)).workers) for _ in range(6000))
    assert len(pairs) == 6
    assert all(800 < count < 1200 for count in pairs.values())
