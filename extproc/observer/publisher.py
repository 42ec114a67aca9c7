"""Tells routers and Envoy of the fleet, in the order that loses no request."""

import logging
from collections.abc import Iterable, Sequence
from typing import Protocol

import msgspec

from extproc.fleet.worker import Fleet, Worker
from extproc.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)


class Document(Protocol):
    """Where routers read the fleet (:class:`extproc.shm.fleet.FleetDocument`)."""

    def publish(self, data: bytes) -> int:
        """Replace the document; raises ``ValueError`` when it is too long."""


class Endpoints(Protocol):
    """Where Envoy reads the fleet (:class:`extproc.dataplane.eds.EndpointFile`)."""

    def write(self, workers: Sequence[Worker]) -> bool:
        """Replace the endpoints, if they differ; raises ``OSError``."""


class Publisher:
    """Publishes one fleet after another.

    Routers name endpoints that Envoy has to know. So what opens (a worker added, healthy again, active again) is told
    to Envoy first and to the routers second, and what closes to the routers first and to Envoy second. Envoy reads its
    file a moment after it is written; a request that names an endpoint in that moment is balanced by Envoy itself, so
    nothing here waits for it.

    Neither side's fault stops the other: it is counted under ``extproc_fallbacks_total`` (``endpoint_file``,
    ``fleet_document``), and :meth:`retry` is due while ``behind`` is set. It is logged when it begins and when it is
    over, not at every try: that would fill a disk.

    A change of the models alone concerns the routers only. ``before`` is the fleet that routers know already, None when
    they know none.
    """

    def __init__(self, *, document: Document, endpoints: Endpoints, metrics: Metrics, before: Fleet | None) -> None:
        self._document = document
        self._endpoints = endpoints
        self._fallbacks = metrics.fallbacks
        self._routers_know = before
        self._wanted: Fleet | None = None
        self._failing: set[str] = set()
        self.behind = False

    def publish(self, fleet: Fleet) -> None:
        """Make this the fleet; routers are told nothing when it equals what they know."""
        self._wanted = fleet
        self.retry()

    def retry(self) -> None:
        """Bring both sides up to the fleet last published."""
        fleet = self._wanted
        assert fleet is not None
        self.behind = False
        self._write_endpoints((*self._known_workers(), *fleet.workers))
        if fleet != self._routers_know:
            self._publish_document(fleet)
        self._write_endpoints((*fleet.workers, *self._known_workers()))
        if self._failing and not self.behind:
            logger.info("Wrote the %s after all", " and the ".join(sorted(self._failing)).replace("_", " "))
            self._failing.clear()

    def _known_workers(self) -> tuple[Worker, ...]:
        return () if self._routers_know is None else self._routers_know.workers

    def _publish_document(self, fleet: Fleet) -> None:
        try:
            self._document.publish(msgspec.json.encode(fleet))
        except ValueError as error:
            self._fail("fleet_document", error)
        else:
            self._routers_know = fleet

    def _write_endpoints(self, workers: Iterable[Worker]) -> None:
        try:
            self._endpoints.write(one_per_address(workers))
        except OSError as error:
            self._fail("endpoint_file", error)

    def _fail(self, reason: str, error: Exception) -> None:
        self.behind = True
        self._fallbacks.labels(reason).inc()
        if reason not in self._failing:
            self._failing.add(reason)
            logger.error("Cannot write the %s, trying again until it works: %s", reason.replace("_", " "), error)


def one_per_address(workers: Iterable[Worker]) -> list[Worker]:
    """Keep one record for each address: the last that may be chosen, else the first that is healthy, else the first.

    An address has one for each rank of its server, two while its worker is given another id, and more when the fleet
    before and the fleet after a change are taken together.
    """
    chosen: dict[str, Worker] = {}
    for worker in workers:
        known = chosen.get(worker.address)
        if known is None or worker.eligible or (worker.healthy and not known.healthy):
            chosen[worker.address] = worker
    return list(chosen.values())
