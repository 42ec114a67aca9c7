"""``bucket``: each candidate takes a range of prompt lengths, so that long prompts do not hold up short ones.

The candidates, by id, share the lengths from short to long, with borders at which each range got about the same number
of tokens lately; they are learned anew every ``adjust_interval_secs``. Lengths are counted in classes a quarter of an
octave wide; a class on a border is shared between its neighbours in proportion, so that each gets its part even if all
prompts are of one length. When the tokens sent since the last learning are out of balance (the most and the least
differ by more than ``balance_abs_threshold`` requests' worth, and by more than ``balance_rel_threshold`` times) the
worker that was sent least is chosen instead.

When to use it: lengths from a few tokens to very many, and no prefixes to share. State: tokens sent, by class of length
and by worker, over all processes; the borders follow from them, so all processes have about the same. Fall-backs: the
workers of the neighbouring ranges. Source of the rule: the family of the Shepherd Model Gateway, which counts
characters.
"""

from itertools import accumulate
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from extproc.api.request import RoutingRequest
from extproc.fleet.candidates import Candidates, PerCandidates
from extproc.policies.base import (
    Choice,
    Floats,
    Needs,
    PolicyContext,
    Ranking,
    Reason,
    picked,
    prompt_tokens_of,
)
from extproc.shm.layout import LENGTH_CLASSES
from extproc.shm.lengths import class_of, lower_bound

FIRST_SHORTEST, FIRST_LONGEST = 32, 8192
"""Until prompts are seen, as many of each length between these are expected: from a question to a long document."""
ENOUGH_PROMPTS = 25
"""So many of this process lately make what was before count for nothing; fewer count in part."""
MEAN_WEIGHT = 0.02
MAX_CANDIDATE_SETS = 64


class Bucket:
    """The worker of the prompt's length."""

    name: ClassVar[str] = "bucket"
    needs: ClassVar[Needs] = Needs.TOKENS

    def __init__(self, context: PolicyContext) -> None:
        parameters = context.parameters.bucket
        self._lengths = context.lengths
        self._loads = context.loads
        self._clock = context.clock
        self._rng = context.rng
        self._ranking = Ranking(context)
        self._interval_secs = parameters.adjust_interval_secs
        self._abs_requests = parameters.balance_abs_threshold
        self._rel = parameters.balance_rel_threshold
        self._max_endpoints = context.max_endpoints
        expected = range(class_of(FIRST_SHORTEST), class_of(FIRST_LONGEST) + 1)
        self._parts = _parts(np.array([lower_bound(at) * (at in expected) for at in range(LENGTH_CLASSES)]))
        self._until = [0.0, *accumulate(self._parts.tolist())]
        self._seen = context.lengths.totals()
        self._prompts = 0
        self._mean_tokens = 0.0
        self._learned_at = context.clock()
        self._sent_before: PerCandidates[Floats] = PerCandidates(MAX_CANDIDATE_SETS)

    def choose(self, request: RoutingRequest, candidates: Candidates) -> Choice:
        """Find the range that the prompt's length is in."""
        tokens = prompt_tokens_of(request)
        self._lengths.add(tokens)
        self._prompts += 1
        self._mean_tokens += (tokens - self._mean_tokens) * (MEAN_WEIGHT if self._mean_tokens else 1.0)
        if self._clock() - self._learned_at >= self._interval_secs:
            self._learn()
        position, reason = self._range_of(tokens, len(candidates)), Reason.LENGTH_RANGE
        least = self._left_behind(candidates)
        if least is not None and least != position:
            position, reason = least, Reason.LENGTH_BALANCE
        return Choice(picked(candidates, self._around(position, len(candidates))), reason)

    def _learn(self) -> None:
        self._learned_at = self._clock()
        seen = self._lengths.totals()
        lately, self._seen = seen - self._seen, seen
        if lately.any():
            weight = min(self._prompts / ENOUGH_PROMPTS, 1.0)
            self._parts = weight * _parts(lately) + (1.0 - weight) * self._parts
            self._until = [0.0, *accumulate(self._parts.tolist())]
        self._prompts = 0
        self._sent_before = PerCandidates(MAX_CANDIDATE_SETS)

    def _range_of(self, tokens: int, workers: int) -> int:
        """Return which of as many ranges as there are workers a length is in: each has the same part of all tokens."""
        length = class_of(tokens)
        shorter, as_long = self._until[length : length + 2]
        return min(int((shorter + self._rng.random() * (as_long - shorter)) * workers), workers - 1)

    def _left_behind(self, candidates: Candidates) -> int | None:
        """Return the position of the worker that was sent least when it is far behind, else None."""
        sent = self._loads.sent_tokens(candidates)
        before = self._sent_before.get(candidates)
        if before is None:
            self._sent_before.keep(candidates, sent)
            return None
        sent = sent - before
        least, most = float(sent.min()), float(sent.max())
        if most - least > self._abs_requests * self._mean_tokens and most > self._rel * least:
            return self._ranking.lowest(sent)[0]
        return None

    def _around(self, position: int, workers: int) -> list[int]:
        """Return a position and its neighbours, the nearer first."""
        wanted = min(self._max_endpoints, workers)
        near = range(max(0, position - wanted), min(workers, position + wanted + 1))
        return sorted(near, key=lambda at: abs(at - position))[:wanted]


def _parts(tokens: npt.NDArray[np.int64] | Floats) -> Floats:
    """Return which part of all tokens each class has."""
    parts: Floats = tokens / tokens.sum()
    return parts
