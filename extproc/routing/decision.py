"""What a decision is, and the accounting that lives as long as its request."""

from typing import Protocol

import msgspec

from extproc.fleet.worker import Worker
from extproc.policies.base import Reason


class InFlightColumn(Protocol):
    """This process's share of the requests in flight, by worker slot."""

    def add(self, worker_slot: int, delta: int) -> None:
        """Count requests up or down."""


class Decision(msgspec.Struct, eq=False):
    """A routed request.

    ``endpoints`` is the value for the data plane: ``ip:port`` of the first choice, then of its fall-backs, separated by
    commas. The request counts as in flight to ``worker`` from the decision until :meth:`release`.
    """

    endpoints: str
    worker: Worker
    policy: str
    reason: Reason
    in_flight: InFlightColumn | None

    def release(self) -> None:
        """End the accounting; further calls do nothing."""
        if self.in_flight is not None:
            self.in_flight.add(self.worker.slot, -1)
            self.in_flight = None
