"""Sessions of several turns: every prompt is the one before, its answer, and something new."""

import abc
import dataclasses
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from extproc.simulation.loads.generators.base import FIRST_OWN_CONTENT, SESSIONS_AT_ONCE, BuiltInLoad
from extproc.simulation.loads.generators.draws import Floats, Generator, Ints, poisson_starts, turn_counts
from extproc.simulation.loads.generators.prompt import Prompt, beginnings
from extproc.simulation.loads.load import Session, Turn


class TurnDraws(NamedTuple):
    """What turns are made of, an entry for each: what a prompt adds, how long its answer is, and the time before it."""

    added_tokens: Ints
    answer_tokens: Ints
    think_secs: Floats


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ConversationLoad(BuiltInLoad):
    """Sessions come by a Poisson process, and each begins with one of a few shared prompts, all of them equally likely.

    Sessions start so often that their turns come at ``rate`` on average. The first ones come to an empty fleet, so the
    rate of requests rises over about the length of a session, and the last requests come after ``secs``.
    """

    def sessions(self) -> Iterator[Session]:
        """Give the sessions in the order of their starts."""
        for_shape, for_starts, for_beginnings, for_turns = self._generators(4)
        counts = turn_counts(self._turn_counts(for_shape, self.requests), self.requests)
        starts = poisson_starts(for_starts, len(counts), self.secs)
        shared = beginnings(self._shared_tokens(for_beginnings).tolist())
        contents = itertools.count(FIRST_OWN_CONTENT)
        for first in range(0, len(counts), SESSIONS_AT_ONCE):
            part = slice(first, first + SESSIONS_AT_ONCE)
            ends = np.cumsum(counts[part])
            drawn = self._turns(for_turns, int(ends[-1]))
            drawn.think_secs[ends - counts[part]] = 0.0
            turns = zip(*(column.tolist() for column in drawn), strict=True)
            begins_with = for_turns.integers(len(shared), size=len(ends)).tolist()
            rows = zip(starts[part].tolist(), counts[part].tolist(), begins_with, strict=True)
            for number, (starts_at, count, beginning) in enumerate(rows, first):
                of_session = itertools.islice(turns, count)
                conversation = _conversation(shared[beginning].copy(), of_session, contents)
                yield Session(starts_at, f"{self.name}-{number}", conversation)

    @abc.abstractmethod
    def _turn_counts(self, rng: Generator, count: int) -> Ints:
        """Draw the number of turns of ``count`` sessions."""

    @abc.abstractmethod
    def _shared_tokens(self, rng: Generator) -> Ints:
        """Draw the lengths of the shared beginnings."""

    @abc.abstractmethod
    def _turns(self, rng: Generator, count: int) -> TurnDraws:
        """Draw ``count`` turns."""


def _conversation(prompt: Prompt, turns: Iterator[tuple[int, int, float]], contents: Iterator[int]) -> tuple[Turn, ...]:
    made = []
    for added_tokens, answer_tokens, think_secs in turns:
        prompt.add(next(contents), added_tokens)
        made.append(Turn(prompt.tokens, answer_tokens, prompt.blocks(), think_secs))
        prompt.add(next(contents), answer_tokens)
    return tuple(made)
