"""What a decision is; it lives as long as its request."""

import msgspec

from extproc.fleet.worker import Worker
from extproc.policies.base import Reason
from extproc.routing.accounting import Accounts, Flight


class Decision(msgspec.Struct, eq=False):
    """A routed request.

    ``endpoints`` is the value for the data plane: ``ip:port`` of the first choice, then of its fall-backs, separated by
    commas. ``terms`` explain the choice. ``attempt_secs`` is how long each worker may take to begin its answer, 0 for
    as long as it likes. The request counts as in flight from the decision until :meth:`release`.
    """

    endpoints: str
    worker: Worker
    policy: str
    reason: Reason
    terms: tuple[tuple[str, float], ...] = ()
    matched_tokens: int | None = None
    attempt_secs: int = 0
    accounts: Accounts | None = None
    flight: Flight | None = None

    def answered(self, *, status: int, served: str, streamed: bool) -> None:
        """Take the response headers; see :meth:`~extproc.routing.accounting.Accounts.answered`."""
        if self.accounts is not None and self.flight is not None:
            self.accounts.answered(self.flight, status=status, served=served, streamed=streamed)

    def release(self, *, early: bool = False) -> None:
        """End the accounting; further calls do nothing. ``early``: the answer may still be on its way."""
        if self.accounts is not None and self.flight is not None:
            self.accounts.finish(self.flight, early=early)
            self.accounts = None
