from collections import Counter

from extproc.policies.random import Random
from tests.support.fleets import Shared, candidates, request_with


def test_fall_backs_are_as_random_as_the_first_choice() -> None:
    policy = Random(Shared().context(max_endpoints=2, seed=3))
    everyone = candidates(3)
    pairs = Counter(tuple(w.id for w in policy.choose(request_with(), everyone).workers) for _ in range(6000))
    assert len(pairs) == 6
    assert all(800 < count < 1200 for count in pairs.values())
