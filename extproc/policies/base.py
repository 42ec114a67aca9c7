"""What every policy is: its contract, what it may ask for, what it returns."""

import random
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import ClassVar, NamedTuple, Protocol

from extproc.api.request import RoutingRequest
from extproc.fleet.worker import Worker


class Needs(IntEnum):
    """How much of a request a policy looks at. Nothing beyond it is computed; each level includes those before it."""

    NOTHING = 0
    HEADERS = 1
    BODY = 2
    TOKENS = 3
    """The prompt's token ids and block hashes, where they can be known."""


class Reason(StrEnum):
    """Why a worker was chosen. The closed set that appears in metrics and in the decision header."""

    RANDOM = "random"
    ROUND_ROBIN = "round_robin"


class Choice(NamedTuple):
    """``workers`` in order: the first choice, then its fall-backs, without repetition."""

    workers: tuple[Worker, ...]
    reason: Reason


class TurnCounter(Protocol):
    """A counter shared by all router processes."""

    def next(self) -> int:
        """The number of calls so far, by all processes, then one more.

        Two processes that call at the same moment may get the same number.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyContext:
    """What a policy is built with.

    ``max_endpoints`` is the length of the list it returns, ``rng`` its only random source, ``turns`` the shared
    counter.
    """

    max_endpoints: int
    rng: random.Random
    turns: TurnCounter


class Policy(Protocol):
    """One load-balancing policy."""

    name: ClassVar[str]
    needs: ClassVar[Needs]

    def __init__(self, context: PolicyContext) -> None: ...

    def choose(self, request: RoutingRequest, candidates: tuple[Worker, ...]) -> Choice:
        """Pick from ``candidates``: not empty, every one may serve the request, sorted by id."""
