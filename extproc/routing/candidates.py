"""Which workers may take a request: the filters before any policy is asked."""

from extproc.errors import NoEndpoint
from extproc.fleet.candidates import Candidates


def within_subset(candidates: Candidates, subset: tuple[str, ...]) -> Candidates:
    """Keep the workers that the data plane's hint allows.

    An entry is ``ip:port``, or ``ip`` alone for every port of that address (as the Gateway API's reference picker reads
    it). Raises :class:`NoEndpoint` (503) when the hint is empty or allows none of them, as the endpoint picker protocol
    demands.
    """
    if not subset:
        raise NoEndpoint("The data plane's endpoint subset is empty.")
    allowed = frozenset(subset)
    chosen = tuple(
        worker
        for worker in candidates.workers
        if worker.address in allowed or worker.address.rpartition(":")[0] in allowed
    )
    if not chosen:
        raise NoEndpoint("No endpoint of the data plane's subset can take the request.")
    return candidates if len(chosen) == len(candidates) else Candidates(chosen)
