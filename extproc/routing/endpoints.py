"""Which workers a request is offered to one after the other, where servers have data parallel ranks."""

from collections.abc import Iterable, Mapping

from extproc.fleet.candidates import Candidates, PerCandidates
from extproc.fleet.worker import Worker


class Endpoints:
    """Makes of the workers that a policy prefers a list that the data plane can walk.

    The data plane knows addresses only, and repeats a request with the very headers of the first attempt. So the list
    has each address once, and the rank that was chosen is sent to all of it: a fall-back is the worker of that rank at
    its address, and a server that has no such rank, which would answer 400, is left out. Others of the candidates, in
    their order from the first choice on, fill the places that become free. Where the first choice has no ranks none is
    sent, and a server with ranks that serves the request after all finds one by itself.
    """

    def __init__(self) -> None:
        self._by_rank: PerCandidates[dict[int, dict[str, Worker]]] = PerCandidates()

    def reachable(self, workers: tuple[Worker, ...], candidates: Candidates) -> tuple[Worker, ...]:
        """Return the list for ``workers``, the first choice and its fall-backs, which are among ``candidates``."""
        first = workers[0]
        if len(workers) == 1 or (first.ranks == 1 and all(worker.ranks == 1 for worker in workers)):
            return workers
        listed = {first.address: first}
        if first.ranks == 1:
            _add(listed, workers, len(workers))
            _add(listed, _from(candidates, first), len(workers))
        else:
            there = self._of_rank(first.rank, candidates)
            _add(listed, [there[worker.address] for worker in workers if worker.address in there], len(workers))
            _add(listed, _from(candidates, first, there), len(workers))
        return tuple(listed.values())

    def _of_rank(self, rank: int, candidates: Candidates) -> Mapping[str, Worker]:
        """The candidates with a rank, by address."""
        by_rank = self._by_rank.get(candidates)
        if by_rank is None:
            by_rank = self._by_rank.keep(candidates, {})
        there = by_rank.get(rank)
        if there is None:
            there = by_rank[rank] = {one.address: one for one in candidates.workers if one.rank == rank}
        return there


def _add(listed: dict[str, Worker], workers: Iterable[Worker], most: int) -> None:
    """Add workers at addresses that are not listed, up to so many in all."""
    for worker in workers:
        if len(listed) >= most:
            return
        listed.setdefault(worker.address, worker)


def _from(candidates: Candidates, first: Worker, only: Mapping[str, Worker] | None = None) -> Iterable[Worker]:
    """Yield the candidates after the first choice, then those before it; of ``only``, where that is given."""
    workers = candidates.workers
    start = candidates.position_of(first.id) or 0
    for at in range(start, start + len(workers)):
        worker = workers[at % len(workers)]
        if only is None or only.get(worker.address) is worker:
            yield worker
