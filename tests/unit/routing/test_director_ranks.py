"""Decisions where servers have data parallel ranks."""

from extproc.api.request import RoutingRequest
from extproc.fleet.view import FleetView
from extproc.fleet.worker import Worker
from extproc.policies.round_robin import RoundRobin
from extproc.routing.decision import Decision
from tests.support.directors import Directing, Published
from tests.support.fleets import ranks_of, worker
from tests.support.readers import Reading


class Bench:
    """A director that takes workers in turn."""

    def __init__(self, *workers: Worker, single: bool = False) -> None:
        self.directing = Directing(
            fleet=FleetView(Published(*workers)),
            prompts=Reading().reader,
            policies={"default": RoundRobin},
            single_endpoint=single,
        )

    def decide(self, subset: tuple[str, ...] | None = None) -> Decision:
        request = RoutingRequest(method="GET", path="/", headers={}, subset=subset)
        self.directing.director.needs_body(request.method, request.path)
        decision = self.directing.director.decide(request)
        assert isinstance(decision, Decision)
        return decision


def test_a_rank_is_sent_with_a_list_of_servers_that_have_it() -> None:
    bench = Bench(*ranks_of(1, 2, slot=1), *ranks_of(2, 4, slot=4), worker(3))
    decisions = [bench.decide() for _ in range(7)]
    first, second, last = decisions[0], decisions[1], decisions[6]
    assert (first.worker.id, first.worker.sent_rank) == ("w1/0", 0)
    assert first.endpoints.split(",")[0] == "10.0.0.1:8000"
    assert set(first.endpoints.split(",")[1:]) == {"10.0.0.2:8000", "10.0.0.3:8000"}
    assert (second.worker.id, second.worker.sent_rank, second.endpoints) == ("w1/1", 1, "10.0.0.1:8000,10.0.0.2:8000")
    assert {one.worker.id: one.endpoints for one in decisions}["w2/3"] == "10.0.0.2:8000"
    assert (last.worker.id, last.worker.sent_rank) == ("w3", None)
    assert set(last.endpoints.split(",")) == {"10.0.0.3:8000", "10.0.0.1:8000", "10.0.0.2:8000"}


def test_a_request_that_another_server_serves_counts_at_the_same_rank_there() -> None:
    ranks = ranks_of(2, 4, slot=4)
    bench = Bench(*ranks_of(1, 2, slot=1), *ranks)
    bench.decide().release()
    decision = bench.decide()
    decision.answered(status=200, served="10.0.0.2:8000", streamed=True)
    assert bench.directing.in_flight == {ranks[1].slot: 1}


def test_a_hint_of_an_address_allows_all_its_ranks() -> None:
    bench = Bench(*ranks_of(1, 2, slot=1), *ranks_of(2, 2, slot=4))
    decisions = [bench.decide(("10.0.0.2:8000",)) for _ in range(4)]
    assert {one.worker.id for one in decisions} == {"w2/0", "w2/1"}
    assert {one.endpoints for one in decisions} == {"10.0.0.2:8000"}


def test_one_endpoint_may_be_a_rank_too() -> None:
    bench = Bench(*ranks_of(1, 2, slot=1), single=True)
    decisions = [bench.decide() for _ in range(2)]
    assert [(one.endpoints, one.worker.sent_rank) for one in decisions] == [("10.0.0.1:8000", rank) for rank in (0, 1)]
