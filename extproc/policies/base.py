"""What every policy is: its contract, what it may ask for, what it returns."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import ClassVar, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from extproc.api.request import RoutingRequest
from extproc.config.policies import PolicyParameters
from extproc.fleet.candidates import Candidates
from extproc.fleet.loads import CacheRoom, Load
from extproc.fleet.worker import Worker
from extproc.index.block_hash import Hashes
from extproc.index.sticky_map import Sticky
from extproc.tokens.prompt_tokens import PromptTokens

Floats = npt.NDArray[np.float64]
N = TypeVar("N", float, Floats)


class Needs(IntEnum):
    """How much of a request a policy looks at. Nothing beyond it is computed; each level includes those before it."""

    NOTHING = 0
    HEADERS = 1
    BODY = 2
    TOKENS = 3
    """The prompt's token ids and block hashes; where they cannot be known, hashes of the blocks of its text."""
    PREFIXES = 4
    """Also who holds which prefix: what is sent to whom is recorded then."""


class Reason(StrEnum):
    """Why a worker was chosen. The closed set that appears in metrics and in the decision header."""

    RANDOM = "random"
    ROUND_ROBIN = "round_robin"
    LEAST_LOAD = "least_load"
    LESS_LOADED_OF_TWO = "less_loaded_of_two"
    PREFIX_MATCH = "prefix_match"
    """It holds most of the prompt's prefix."""
    NO_MATCH = "no_match"
    """Nobody holds enough of the prefix: the least loaded."""
    SPILL_OVERLOAD = "spill_overload"
    """Whoever holds the prefix has too many requests: the least loaded."""
    SPILL_COST = "spill_cost"
    """Whoever holds the prefix is so busy that computing it elsewhere is sooner done."""
    LENGTH_RANGE = "length_range"
    LENGTH_BALANCE = "length_balance"
    """Tokens sent are out of balance: the worker that got least."""
    STICKY = "sticky"
    """The key was sent there before."""
    STICKY_ASSIGNED = "sticky_assigned"
    """The key is new, or its workers are gone."""
    NO_KEY = "no_key"
    TARGET_WORKER = "target_worker"
    """The request names the worker."""
    RING = "ring"
    RING_NEXT = "ring_next"
    """The ring's worker has too much to do: the next that has not."""
    ONLY_WORKER = "only_worker"
    FIRST_OF_MANY = "first_of_many"
    """`passthrough` with several candidates, which its configuration does not mean."""
    EXPECTED_LATENCY = "expected_latency"
    PLUGIN = "plugin"
    """A policy of somebody else's."""


class Choice(NamedTuple):
    """``workers`` in order: the first choice, then its fall-backs, without repetition.

    ``matched_tokens`` is how much of the prompt the first is believed to hold, None where nobody looked. ``terms``
    explain the choice: names and numbers, seconds where it weighs times.
    """

    workers: tuple[Worker, ...]
    reason: Reason
    matched_tokens: int | None = None
    terms: tuple[tuple[str, float], ...] = ()


class TurnCounter(Protocol):
    """A counter shared by all router processes."""

    def next(self) -> int:
        """The number of calls so far, by all processes, then one more.

        Two processes that call at the same moment may get the same number.
        """


class Loads(Protocol):
    """How loaded candidates are, over all router processes (:class:`extproc.fleet.loads.FleetLoads`)."""

    def requests(self, candidates: Candidates) -> Floats:
        """Requests in flight to each candidate."""

    def sent_tokens(self, candidates: Candidates) -> Floats:
        """Prompt tokens ever sent to each candidate."""

    def read(self, candidates: Candidates) -> Load[Floats]:
        """The load of all candidates."""

    def read_one(self, candidates: Candidates, position: int) -> Load[float]:
        """The load of one candidate."""

    def prefill_secs(self, load: Load[N], new: N, cached: N) -> N:
        """How long workers of that load would compute ``new`` prompt tokens after ``cached`` ones."""

    def room(self, candidates: Candidates) -> CacheRoom:
        """How full the candidates' caches are."""


class Prefixes(Protocol):
    """Which worker holds which prefix (:class:`extproc.index.prefix_index.PrefixIndex`)."""

    def match(self, hashes: Hashes, slots: npt.NDArray[np.int64]) -> Floats:
        """How many leading blocks of a prompt each of the workers in ``slots`` holds."""


class Stickies(Protocol):
    """Where routing keys were sent, over all processes (:class:`extproc.index.sticky_map.StickyMap`)."""

    def hash_of(self, key: str) -> int:
        """The hash under which a key is kept."""

    def find(self, key_hash: int) -> Sticky | None:
        """Where a key was sent."""

    def touch(self, key_hash: int, now: int) -> None:
        """Note that a key is in use."""

    def put(self, key_hash: int, workers: tuple[int, ...], now: int) -> None:
        """Keep fingerprints of workers for a key."""

    @property
    def parts(self) -> int:
        """How many parts the record has."""

    def part_of(self, key_hash: int) -> int:
        """The part in which a key lies."""

    def groups(self, part: int, *, now: int, max_idle_secs: int) -> dict[int, int]:
        """How many keys in use of a part each worker was given last."""


class Lengths(Protocol):
    """How long prompts are, over all processes (:class:`extproc.shm.lengths.LengthColumns`)."""

    def add(self, tokens: int) -> None:
        """Count a prompt."""

    def totals(self) -> npt.NDArray[np.int64]:
        """Tokens sent so far in each class of length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyContext:
    """What a policy is built with.

    ``max_endpoints`` is the length of the list it returns, ``rng`` its only random source, ``clock`` its only clock
    (seconds that only grow), ``parameters`` the settings of the whole family. The others are the state that all
    processes share. ``options`` are what the configuration gives a policy that is a plugin.
    """

    max_endpoints: int
    rng: random.Random
    clock: Callable[[], float]
    parameters: PolicyParameters
    turns: TurnCounter
    loads: Loads
    prefixes: Prefixes
    stickies: Stickies
    lengths: Lengths
    options: Mapping[str, object]


class Policy(Protocol):
    """One load-balancing policy."""

    name: ClassVar[str]
    needs: ClassVar[Needs]

    def __init__(self, context: PolicyContext) -> None: ...

    def choose(self, request: RoutingRequest, candidates: Candidates) -> Choice:
        """Pick from ``candidates``: not empty, every one may serve the request, sorted by id."""


class Ranking:
    """Orders candidates by a number of theirs; equal ones in an order that is drawn each time anew.

    Always preferring one of equals would send every request of an idle fleet to it.
    """

    def __init__(self, context: PolicyContext) -> None:
        self._draw = np.random.Generator(np.random.PCG64(context.rng.getrandbits(64)))
        self._most = context.max_endpoints

    def lowest(self, costs: Floats) -> list[int]:
        """Return the positions of the lowest, best first, as many as a choice has endpoints."""
        order: list[int] = np.lexsort((self._draw.random(len(costs)), costs))[: self._most].tolist()
        return order

    def choice(
        self,
        candidates: Candidates,
        costs: Floats,
        reason: Reason,
        *,
        matched_tokens: int | None = None,
    ) -> Choice:
        """Choose the lowest."""
        return Choice(picked(candidates, self.lowest(costs)), reason, matched_tokens)


def drawn(rng: random.Random, size: int, most: int) -> list[int]:
    """Draw different positions below ``size``, ``most`` of them or all; every order has the same probability."""
    uniform = rng.random
    positions: list[int] = []
    for taken in range(min(most, size)):
        # A position among those left, then moved past each one taken: several times cheaper than random.sample.
        position = int(uniform() * (size - taken))
        for earlier in sorted(positions):
            position += position >= earlier
        positions.append(position)
    return positions


def picked(candidates: Candidates, positions: Sequence[int]) -> tuple[Worker, ...]:
    """Return the candidates at some positions, in that order."""
    workers = candidates.workers
    return tuple([workers[position] for position in positions])


def most_cached_tokens(prompt: PromptTokens) -> int:
    """Return how many tokens of a prompt an engine can find in its cache.

    These are whole blocks, and not the last token: the engine has to compute it, and with it its block, to go on.
    """
    return max(len(prompt.ids) - 1, 0) // prompt.block_size * prompt.block_size


def cached_tokens(prompt: PromptTokens, blocks: Floats) -> Floats:
    """Return how many tokens of a prompt are cached where so many of its ``blocks`` are held."""
    cached: Floats = np.minimum(blocks * prompt.block_size, most_cached_tokens(prompt))
    return cached


def prompt_tokens_of(request: RoutingRequest) -> int:
    """Return the length of a request's prompts in tokens, estimated from bytes where the tokens are not known."""
    if request.prompts:
        return sum([len(prompt.ids) for prompt in request.prompts])
    if request.payload is not None:
        return len(request.payload) // BYTES_PER_TOKEN
    length = request.headers.get("content-length", "")
    return int(length) // BYTES_PER_TOKEN if length.isdecimal() and len(length) < _MAX_LENGTH_DIGITS else 0


BYTES_PER_TOKEN = 4
_MAX_LENGTH_DIGITS = 12

ROUTING_KEY_HEADERS = ("x-extproc-routing-key", "x-smg-routing-key")
TARGET_WORKER_HEADERS = ("x-extproc-target-worker", "x-smg-target-worker")


def header_of(request: RoutingRequest, names: Sequence[str]) -> str:
    """Return the value of the first of some headers that is there and not empty, else nothing."""
    for name in names:
        value = request.headers.get(name, "")
        if value:
            return value
    return ""
