from extproc.fleet.candidates import Candidates, PerCandidates
from extproc.index.sticky_map import fingerprint
from tests.support.fleets import candidates, worker


def test_are_the_workers_in_their_order() -> None:
    found = Candidates((worker(7), worker(2), worker(300)))
    assert len(found) == 3
    assert [one.id for one in found] == ["w7", "w2", "w300"]
    assert found[1] == worker(2)
    assert found[1:] == (worker(2), worker(300))
    assert worker(7) in found
    assert found.slots.tolist() == [7, 2, 300]
    assert found.high == 301


def test_nobody_has_no_slots() -> None:
    assert len(Candidates(())) == 0
    assert Candidates(()).slots.tolist() == []
    assert Candidates(()).high == 0


def test_a_worker_is_found_by_its_id_and_by_its_fingerprint() -> None:
    found = Candidates((worker(7), worker(2)))
    assert [found.position_of(name) for name in ("w7", "w2", "w3")] == [0, 1, None]
    assert [found.position_of_fingerprint(fingerprint(name)) for name in ("w7", "w2", "w3")] == [0, 1, None]


def test_some_of_them_are_candidates_of_their_own() -> None:
    some = candidates(5).only([4, 1])
    assert [one.id for one in some] == ["w4", "w1"]
    assert some.slots.tolist() == [4, 1]
    assert [some.position_of(name) for name in ("w4", "w1", "w0")] == [0, 1, None]


def test_remembers_by_identity_and_not_by_what_they_hold() -> None:
    remembered: PerCandidates[str] = PerCandidates()
    one, alike = candidates(2), candidates(2)
    assert remembered.get(one) is None
    assert remembered.keep(one, "one") == "one"
    assert remembered.get(one) == "one"
    assert remembered.get(alike) is None
    remembered.keep(one, "another")
    assert remembered.get(one) == "another"


def test_remembers_no_more_than_so_many() -> None:
    remembered: PerCandidates[int] = PerCandidates(most=3)
    several = [candidates(1) for _ in range(5)]
    for number, one in enumerate(several):
        remembered.keep(one, number)
    assert [remembered.get(one) for one in several] == [None, None, 2, 3, 4]


def test_keeping_one_anew_costs_no_other() -> None:
    remembered: PerCandidates[int] = PerCandidates(most=3)
    several = [candidates(1) for _ in range(3)]
    for number, one in enumerate(several):
        remembered.keep(one, number)
    remembered.keep(several[2], 20)
    assert [remembered.get(one) for one in several] == [0, 1, 20]


def test_candidates_that_are_gone_lend_their_identity_to_nobody() -> None:
    remembered: PerCandidates[int] = PerCandidates(most=2)
    for number in range(100):
        fresh = candidates(1)
        assert remembered.get(fresh) is None
        remembered.keep(fresh, number)
