"""``agents``: programs that call tools, turn after turn."""

import dataclasses
from typing import ClassVar

import numpy as np

from extproc.config.fault import Fault
from extproc.config.setting import setting
from extproc.simulation.loads.generators.base import MAX_BEGINNINGS, mean_rate
from extproc.simulation.loads.generators.conversations import ConversationLoad, TurnDraws
from extproc.simulation.loads.generators.draws import Generator, Ints, lengths

MAX_RESULT_TOKENS = 4_000
MAX_LONG_RESULT_TOKENS = 12_000
MAX_ANSWER_TOKENS = 1_000
THINK_SECS = (0.3, 2.0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Agents(ConversationLoad):
    """Long shared prompts, many quick turns, and prompts that grow to tens of thousands of tokens.

    The next turn comes as soon as a tool has run, after 0.3 to 2 s.
    """

    name: ClassVar[str] = "agents"

    rate: float = mean_rate(8.0)
    agents: int = setting(8, "Different agents, each with its instructions and tools.", low=1, high=MAX_BEGINNINGS)
    system_tokens: int = setting(
        6_000, "Mean length of an agent's instructions and tools.", unit="tokens", low=1, high=100_000
    )
    min_turns: int = setting(8, "Fewest turns of a session.", low=1, high=200)
    max_turns: int = setting(30, "Most turns of a session.", low=1, high=200)
    result_tokens: int = setting(800, "Mean length of what a tool returns.", unit="tokens", low=1, high=2_000)
    long_result_tokens: int = setting(
        6_000, "Mean length of what a tool returns when that is long.", unit="tokens", low=1, high=8_000
    )
    long_share: float = setting(0.1, "Share of the long results.", low=0, high=1)
    answer_tokens: int = setting(120, "Mean length of an answer, which calls a tool.", unit="tokens", low=1, high=500)

    def _faults_between(self) -> list[Fault]:
        faults = super(
            Agents, self
        )._faults_between()  # a class with slots is made anew, and `super()` does not know it
        if self.min_turns > self.max_turns:
            faults.append(Fault("agents.min_turns", f"must be at most agents.max_turns ({self.max_turns})"))
        return faults

    def _turn_counts(self, rng: Generator, count: int) -> Ints:
        return rng.integers(self.min_turns, self.max_turns, count, endpoint=True)

    def _shared_tokens(self, rng: Generator) -> Ints:
        return lengths(rng, self.agents, mean=self.system_tokens, spread=0.2, cap=2 * self.system_tokens)

    def _turns(self, rng: Generator, count: int) -> TurnDraws:
        short = lengths(rng, count, mean=self.result_tokens, spread=0.8, cap=MAX_RESULT_TOKENS)
        long = lengths(rng, count, mean=self.long_result_tokens, spread=0.4, cap=MAX_LONG_RESULT_TOKENS)
        return TurnDraws(
            np.where(rng.random(count) < self.long_share, long, short),
            lengths(rng, count, mean=self.answer_tokens, spread=0.5, cap=MAX_ANSWER_TOKENS),
            rng.uniform(*THINK_SECS, count),
        )
