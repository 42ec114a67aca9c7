"""What is known of one question to the DNS, and when it is to be asked again. Pure: no I/O, no clock."""

import dataclasses
from typing import Generic, Literal, NamedTuple, TypeVar

from extproc.fleet.discovery.retry import Retry

LookupResult = Literal["ok", "nothing", "timeout", "failed"]
"""Labels of ``extproc_discovery_dns_lookups_total``."""

Record = TypeVar("Record")


@dataclasses.dataclass(frozen=True, slots=True)
class Found(Generic[Record]):
    """Records, and how long they may be kept."""

    records: frozenset[Record]
    ttl_secs: float

    @property
    def result(self) -> LookupResult:
        """Its label."""
        return "ok"


@dataclasses.dataclass(frozen=True, slots=True)
class Nothing:
    """A good answer that there are no such records, or no such name."""

    ttl_secs: float

    @property
    def result(self) -> LookupResult:
        """Its label."""
        return "nothing"


@dataclasses.dataclass(frozen=True, slots=True)
class Failed:
    """No answer that can be used."""

    result: Literal["timeout", "failed"]
    reason: str


Outcome = Found[Record] | Nothing | Failed


class TtlBounds(NamedTuple):
    """Least and most seconds that an answer is kept."""

    least_secs: float
    most_secs: float

    def clamp(self, ttl_secs: float) -> float:
        """Return the time to keep an answer with this TTL."""
        return min(max(ttl_secs, self.least_secs), self.most_secs)


class AnswerTracker(Generic[Record]):
    """The records of one question, through failures and doubtful answers.

    A failure changes nothing. An answer that says there is nothing counts when a second one in a row confirms it (a
    failure between them does not matter): a server that has just lost its zone, or has not loaded it yet, gives such
    answers too. The second look comes when the first answer has run out, or a cache on the way would only repeat it.

    ``asked`` is set once there was any outcome, ``certain`` once there was one that counts.
    """

    def __init__(self, *, ttl: TtlBounds, retry: Retry) -> None:
        self._ttl = ttl
        self._retry = retry
        self._doubted = False
        self.records: frozenset[Record] = frozenset()
        self.asked = False
        self.certain = False
        self.failures = 0

    def take(self, outcome: Outcome[Record]) -> float:
        """Take the outcome of a look-up; return how many seconds to wait before the next one."""
        self.asked = True
        if isinstance(outcome, Failed):
            self.failures += 1
            return self._retry.wait_secs(self.failures)
        self.failures = 0
        if isinstance(outcome, Found):
            self.records = outcome.records
            self.certain = True
            self._doubted = False
        elif self._doubted:
            self.records = frozenset()
            self.certain = True
        else:
            self._doubted = True
        return self._ttl.clamp(outcome.ttl_secs)
