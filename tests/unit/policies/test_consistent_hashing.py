import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.config.policies import ConsistentHashingSettings, PolicyParameters
from extproc.fleet.candidates import Candidates
from extproc.policies.base import Choice, Reason
from extproc.policies.consistent_hashing import ConsistentHashing
from tests.support.fleets import Shared, candidates, request_with

EVERYONE = candidates(6)
KEYS = [f"user-{number}" for number in range(600)]


class Bench:
    """The policy in one process of a service."""

    def __init__(
        self, *, load_factor: float = 1.25, header_names: tuple[str, ...] = (), virtual_nodes: int = 150, seed: int = 0
    ) -> None:
        self.shared = Shared()
        self.column = self.shared.table.column(1)
        settings = ConsistentHashingSettings(
            load_factor=load_factor, header_names=header_names, virtual_nodes=virtual_nodes
        )
        parameters = PolicyParameters(consistent_hashing=settings)
        self.policy = ConsistentHashing(self.shared.context(parameters=parameters, seed=seed))

    def choose(self, among: Candidates = EVERYONE, /, **headers: str) -> Choice:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.policy.choose(request_with(headers=named), among)

    def of(self, key: str, among: Candidates = EVERYONE) -> str:
        return self.choose(among, x_extproc_routing_key=key).workers[0].id


def test_a_key_goes_to_the_same_worker_in_every_process() -> None:
    one, other = Bench(seed=1), Bench(seed=2)
    assert [one.of(key) for key in KEYS] == [other.of(key) for key in KEYS]
    assert one.choose(x_extproc_routing_key="a").reason is Reason.RING


def test_every_worker_gets_about_its_share_of_the_keys() -> None:
    counts = Counter(Bench().of(f"user-{number}") for number in range(3000))
    assert len(counts) == 6
    assert all(0.7 * 500 < count < 1.3 * 500 for count in counts.values())


def test_more_virtual_nodes_make_the_shares_more_even() -> None:
    few, many = (max(Counter(Bench(virtual_nodes=nodes).of(key) for key in KEYS).values()) for nodes in (1, 1000))
    assert many < 140 < few


@settings(deadline=None, max_examples=20)
@given(gone=st.integers(0, 5))
def test_only_the_keys_of_a_worker_that_leaves_move_and_they_return_with_it(gone: int) -> None:
    bench = Bench()
    left = EVERYONE.only([at for at in range(6) if at != gone])
    for key in KEYS[:100]:
        before, after = bench.of(key), bench.of(key, left)
        assert after == before if before != f"w{gone}" else after != before
        assert bench.of(key) == before


def test_the_keys_of_a_worker_that_leaves_are_shared_by_the_others() -> None:
    bench = Bench()
    left = EVERYONE.only(range(1, 6))
    heirs = Counter(bench.of(key, left) for key in KEYS if bench.of(key) == "w0")
    assert len(heirs) == 5


def test_the_next_on_the_ring_are_the_fall_backs() -> None:
    """So a data plane that retries sends a key where it goes once its worker has left."""
    bench = Bench()
    for key in KEYS[:50]:
        first, second, third = bench.choose(x_extproc_routing_key=key).workers
        left = EVERYONE.only([at for at, worker in enumerate(EVERYONE) if worker is not first])
        assert bench.of(key, left) == second.id
        assert third not in (first, second)


@pytest.mark.parametrize("prefix", ["x-extproc", "x-smg"])
def test_the_worker_that_a_request_names_takes_it_whatever_its_key_and_its_load(prefix: str) -> None:
    bench = Bench()
    bench.column.add(4, requests=100)
    for key in KEYS[:20]:
        choice = bench.choose(**{f"{prefix}-target-worker": "w4", f"{prefix}-routing-key": key})
        assert (choice.workers[0].id, choice.reason) == ("w4", Reason.TARGET_WORKER)
        assert len(set(choice.workers)) == 3


def test_a_worker_is_named_by_its_id_and_never_by_its_place() -> None:
    reordered = EVERYONE.only([5, 4, 3, 2, 1, 0])
    bench = Bench()
    assert bench.choose(reordered, x_extproc_target_worker="w1").workers[0].id == "w1"
    for other in ("1", "-1", "w9", "10.0.0.1:8000"):
        assert bench.choose(x_extproc_target_worker=other).reason is Reason.RING


def test_a_worker_that_is_named_and_cannot_take_it_gives_way_to_the_key() -> None:
    bench = Bench()
    left = EVERYONE.only([0, 1, 2])
    choice = bench.choose(left, x_extproc_target_worker="w5", x_extproc_routing_key="a")
    assert (choice.workers[0].id, choice.reason) == (bench.of("a", left), Reason.RING)
    without_key = {bench.choose(left, x_extproc_target_worker="w5").workers[0].id for _ in range(9)}
    assert len(without_key) == 1, "its name is a key too: requests for it stay together"


@pytest.mark.parametrize("prefix", ["x-extproc", "x-smg"])
def test_the_routing_key_goes_before_other_headers(prefix: str) -> None:
    bench = Bench(header_names=("x-user", "x-tenant"))
    wanted = bench.of("a")
    assert bench.choose(**{f"{prefix}-routing-key": "a", "x-user": "b"}).workers[0].id == wanted


def test_the_first_configured_header_that_a_request_has_is_its_key() -> None:
    bench = Bench(header_names=("x-user", "x-tenant"))
    for key in KEYS[:20]:
        assert bench.choose(x_tenant=key).workers[0].id == bench.of(key)
        assert bench.choose(x_tenant="other", x_user=key).workers[0].id == bench.of(key)
        assert bench.choose(x_tenant=key, x_user="").workers[0].id == bench.of(key)


def test_credentials_are_no_key() -> None:
    bench = Bench()
    choices = [bench.choose(authorization="Bearer secret", cookie="session=1") for _ in range(60)]
    assert {choice.reason for choice in choices} == {Reason.NO_KEY}
    assert {choice.workers[0].id for choice in choices} == {worker.id for worker in EVERYONE}


def test_a_request_without_a_key_goes_to_the_least_loaded() -> None:
    bench = Bench()
    for slot in range(6):
        bench.column.add(slot, requests=3)
        bench.shared.busy(slot, 0.1 if slot != 2 else 0.001)
    choice = bench.choose()
    assert (choice.workers[0].id, choice.reason) == ("w2", Reason.NO_KEY)


def test_a_worker_over_its_bound_is_passed_over_for_the_next_on_the_ring() -> None:
    bench = Bench()
    first, second, _ = bench.choose(x_extproc_routing_key="hot").workers
    # With 4 in flight the bound is the next whole number from 1.25 * 5 / 6: two.
    bench.column.add(first.slot, requests=1)
    for slot in [worker.slot for worker in EVERYONE if worker not in (first, second)][:3]:
        bench.column.add(slot, requests=1)
    assert bench.choose(x_extproc_routing_key="hot").workers[0] is first
    bench.column.add(first.slot, requests=1)
    choice = bench.choose(x_extproc_routing_key="hot")
    assert (choice.workers[0], choice.reason) == (second, Reason.RING_NEXT)
    assert first not in choice.workers


def test_one_hot_key_does_not_drown_a_worker_and_walks_on_along_the_ring() -> None:
    bench, everyone = Bench(), candidates(3)
    ring = bench.choose(everyone, x_extproc_routing_key="hot").workers
    in_flight: Counter[int] = Counter()
    for sent in range(1, 101):
        choice = bench.choose(everyone, x_extproc_routing_key="hot")
        most = math.ceil(1.25 * sent / 3)
        start = next(at for at, worker in enumerate(ring) if in_flight[worker.slot] < most)
        assert choice.workers == (*ring[start:], *ring[:start])
        in_flight[choice.workers[0].slot] += 1
        bench.column.add(choice.workers[0].slot, requests=1)
    assert in_flight[ring[0].slot] == 42


def test_without_a_bound_it_does() -> None:
    bench = Bench(load_factor=0)
    for _ in range(60):
        bench.column.add(bench.choose(x_extproc_routing_key="hot").workers[0].slot, requests=1)
    assert max(bench.shared.table.in_flight()) == 60


@settings(deadline=None, max_examples=60)
@given(
    requests=st.lists(st.integers(0, 50), min_size=1, max_size=6),
    load_factor=st.floats(1, 3),
    key=st.text(min_size=1, max_size=5),
)
def test_somebody_is_always_within_the_bound(requests: list[int], load_factor: float, key: str) -> None:
    bench, everyone = Bench(load_factor=load_factor), candidates(len(requests))
    for slot, count in enumerate(requests):
        bench.column.add(slot, requests=count)
    chosen = bench.choose(everyone, x_extproc_routing_key=key).workers[0]
    assert requests[chosen.slot] <= load_factor * (sum(requests) + 1) / len(requests)
