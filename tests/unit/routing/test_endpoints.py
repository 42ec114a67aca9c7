"""The list for the data plane where servers have data parallel ranks."""

from hypothesis import given
from hypothesis import strategies as st

from extproc.fleet.candidates import Candidates
from extproc.fleet.worker import Worker
from extproc.routing.endpoints import Endpoints
from tests.support.fleets import ranks_of, worker


def fleet(*sizes: int) -> Candidates:
    """Servers with so many ranks each; the number of a server is its place."""
    found: list[Worker] = []
    for number, size in enumerate(sizes):
        if size == 1:
            found.append(worker(number))
        else:
            found += ranks_of(number, size, slot=100 * number)
    return Candidates(tuple(sorted(found, key=lambda one: one.id)))


def listed(candidates: Candidates, *ids: str) -> list[str]:
    positions = [candidates.position_of(name) for name in ids]
    workers = tuple(candidates[position] for position in positions if position is not None)
    assert len(workers) == len(ids)
    return [one.id for one in Endpoints().reachable(workers, candidates)]


def test_a_list_without_ranks_is_left_as_it_is() -> None:
    candidates = fleet(1, 1, 1)
    workers = candidates.workers[:2]
    assert Endpoints().reachable(workers, candidates) is workers


def test_a_fall_back_is_the_chosen_rank_at_its_address() -> None:
    assert listed(fleet(2, 4, 2), "w0/1", "w2/0", "w1/3") == ["w0/1", "w2/1", "w1/1"]


def test_an_address_is_listed_once_and_others_take_the_places() -> None:
    assert listed(fleet(4, 4, 4), "w1/2", "w1/0", "w1/3") == ["w1/2", "w2/2", "w0/2"]


def test_a_server_without_that_rank_is_left_out() -> None:
    assert listed(fleet(4, 2, 1), "w0/3", "w1/0", "w2") == ["w0/3"]
    assert listed(fleet(4, 2, 1), "w0/1", "w2", "w1/0") == ["w0/1", "w1/1"]


def test_the_first_rank_is_one_that_every_server_has() -> None:
    assert listed(fleet(4, 2, 1), "w0/0", "w2", "w1/1") == ["w0/0", "w2", "w1/0"]


def test_a_server_without_ranks_may_be_followed_by_any() -> None:
    assert listed(fleet(1, 2, 2), "w0", "w1/1", "w1/0") == ["w0", "w1/1", "w2/0"]


def test_a_rank_that_may_not_take_the_request_is_no_fall_back() -> None:
    candidates = Candidates(tuple(one for one in fleet(2, 2, 2) if one.id != "w1/1"))
    assert listed(candidates, "w0/1", "w1/0", "w2/0") == ["w0/1", "w2/1"]


def test_the_list_is_as_long_as_it_was_and_no_longer() -> None:
    assert listed(fleet(2, 2, 2, 2), "w0/1") == ["w0/1"]
    assert listed(fleet(2, 2, 2, 2), "w3/1", "w3/0") == ["w3/1", "w0/1"]


@given(st.data(), st.lists(st.integers(1, 4), min_size=1, max_size=5))
def test_every_attempt_finds_the_rank_that_is_sent(data: st.DataObject, sizes: list[int]) -> None:
    candidates = fleet(*sizes)
    wanted = tuple(data.draw(st.lists(st.sampled_from(candidates.workers), min_size=1, max_size=5, unique=True)))
    found = Endpoints().reachable(wanted, candidates)
    first = wanted[0]
    assert found[0] is first
    assert len(found) <= len(wanted)
    assert len({one.address for one in found}) == len(found)
    assert all(one in candidates.workers for one in found)
    if first.sent_rank is not None:
        assert all(one.rank == first.rank < one.ranks for one in found)
        others = {one.address for one in candidates.workers if one.rank == first.rank} - {first.address}
        assert len(found) == min(len(wanted), 1 + len(others))
