"""Single requests of tenants, of which each has a long system prompt of its own."""

import abc
import dataclasses
import itertools
from collections.abc import Iterator

from extproc.config.fault import Fault
from extproc.config.setting import setting
from extproc.simulation.loads.generators.base import FIRST_OWN_CONTENT, MAX_BEGINNINGS, SESSIONS_AT_ONCE, BuiltInLoad
from extproc.simulation.loads.generators.draws import Floats, Generator, Ints, Zipf, lengths
from extproc.simulation.loads.generators.prompt import beginnings
from extproc.simulation.loads.load import Session, Turn

MAX_USER_TOKENS = 4_000
MAX_ANSWER_TOKENS = 2_000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TenantLoad(BuiltInLoad):
    """Tenants come by a Zipf law; the key of a request is its tenant's."""

    tenants: int = setting(200, "Tenants there are.", low=1, high=MAX_BEGINNINGS)
    exponent: float = setting(1.0, "Exponent of the Zipf law; 0 makes tenants equally likely.", low=0, high=4)
    min_system_tokens: int = setting(2_500, "Shortest system prompt.", unit="tokens", low=1, high=100_000)
    max_system_tokens: int = setting(8_000, "Longest system prompt.", unit="tokens", low=1, high=100_000)
    user_tokens: int = setting(300, "Mean length of a request's own part.", unit="tokens", low=1, high=2_000)
    answer_tokens: int = setting(150, "Mean length of an answer.", unit="tokens", low=1, high=1_000)

    def _faults_between(self) -> list[Fault]:
        # A class with slots is made anew, and `super()` does not know it.
        faults = super(TenantLoad, self)._faults_between()
        if self.min_system_tokens > self.max_system_tokens:
            most = f"{self.name}.max_system_tokens ({self.max_system_tokens:,})"
            faults.append(Fault(f"{self.name}.min_system_tokens", f"must be at most {most}"))
        return faults

    def sessions(self) -> Iterator[Session]:
        """Give a session for every request."""
        for_tenants, for_arrivals, rng = self._generators(3)
        sizes = for_tenants.integers(self.min_system_tokens, self.max_system_tokens, self.tenants, endpoint=True)
        systems = beginnings(sizes.tolist())
        contents = itertools.count(FIRST_OWN_CONTENT)
        popular = Zipf(self.tenants, exponent=self.exponent)
        starts, tenants = self._arrivals(for_arrivals, popular)
        for first in range(0, self.requests, SESSIONS_AT_ONCE):
            part = slice(first, first + SESSIONS_AT_ONCE)
            count = len(starts[part])
            users = lengths(rng, count, mean=self.user_tokens, spread=0.7, cap=MAX_USER_TOKENS)
            answers = lengths(rng, count, mean=self.answer_tokens, spread=0.6, cap=MAX_ANSWER_TOKENS)
            columns = (starts[part], tenants[part], users, answers)
            for starts_at, tenant, user, answer in zip(*(column.tolist() for column in columns), strict=True):
                prompt = systems[tenant].copy()
                prompt.add(next(contents), user)
                turn = Turn(prompt.tokens, answer, prompt.blocks(), 0.0)
                yield Session(starts_at, f"tenant-{tenant}", (turn,))

    @abc.abstractmethod
    def _arrivals(self, rng: Generator, popular: Zipf) -> tuple[Floats, Ints]:
        """Draw the start of every request, in order, and its tenant."""
