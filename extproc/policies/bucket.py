"""``bucket``: each candidate takes a range of prompt lengths, so that long prompts do not hold up short ones.

The candidates, by id, share the lengths from short to long, with borders at which each range got about the same number
of tokens lately; they are learned anew every ``adjust_interval_secs``. When the tokens sent since then are out of
balance (the most and the least differ by more than ``balance_abs_threshold`` requests' worth, and by more than
``balance_rel_threshold`` times) the worker that was sent least is chosen instead.

When to use it: lengths from a few tokens to very many, and no prefixes to share. State: tokens sent, by class of length
and by worker, over all processes; the borders follow from them, so all processes have about the same. Fall-backs: the
workers of the neighbouring ranges. Source of the rule: the family of the Shepherd Model Gateway, which counts
characters.
"""

from bisect import bisect_right
from typing import ClassVar

import numpy as np

from extproc.api.request import RoutingRequest
from extproc.fleet.candidates import Candidates, PerCandidates
from extproc.policies.base import Choice, Floats, Needs, PolicyContext, Reason, picked, prompt_tokens_of
from extproc.shm.layout import LENGTH_CLASSES
from extproc.shm.lengths import class_of, lower_bound

_SHORTEST, _LONGEST = class_of(32), class_of(8192)
_MEAN_WEIGHT = 0.02


class Bucket:
    """The worker of the prompt's length."""

    name: ClassVar[str] = "bucket"
    needs: ClassVar[Needs] = Needs.TOKENS

    def __init__(self, context: PolicyContext) -> None:
        parameters = context.parameters.bucket
        self._lengths = context.lengths
        self._loads = context.loads
        self._clock = context.clock
        self._interval_secs = parameters.adjust_interval_secs
        self._abs_requests = parameters.balance_abs_threshold
        self._rel = parameters.balance_rel_threshold
        self._max_endpoints = context.max_endpoints
        self._bounds = np.array([lower_bound(at) for at in range(LENGTH_CLASSES + 1)])
        # Until prompts are seen: as many of each length between a question and a long document.
        self._tokens = np.zeros(LENGTH_CLASSES)
        self._tokens[_SHORTEST : _LONGEST + 1] = self._bounds[_SHORTEST : _LONGEST + 1]
        self._seen = context.lengths.totals()
        self._mean_tokens = 0.0
        self._learned_at = context.clock()
        self._borders: PerCandidates[list[float]] = PerCandidates()
        self._sent_before: PerCandidates[Floats] = PerCandidates()

    def choose(self, request: RoutingRequest, candidates: Candidates) -> Choice:
        """Find the range that the prompt's length is in."""
        tokens = prompt_tokens_of(request)
        self._lengths.add(tokens)
        self._mean_tokens += (tokens - self._mean_tokens) * (_MEAN_WEIGHT if self._mean_tokens else 1.0)
        if self._clock() - self._learned_at >= self._interval_secs:
            self._learn()
        borders = self._borders.get(candidates)
        if borders is None:
            borders = self._borders.keep(candidates, self._divide(len(candidates)))
        position = bisect_right(borders, tokens)
        least = self._out_of_balance(candidates)
        if least is not None and least != position:
            return Choice(picked(candidates, self._around(least, len(candidates))), Reason.LENGTH_BALANCE)
        return Choice(picked(candidates, self._around(position, len(candidates))), Reason.LENGTH_RANGE)

    def _learn(self) -> None:
        self._learned_at = self._clock()
        seen = self._lengths.totals()
        lately, self._seen = seen - self._seen, seen
        if lately.any():
            self._tokens = lately.astype(np.float64)
        self._borders = PerCandidates()
        self._sent_before = PerCandidates()

    def _divide(self, workers: int) -> list[float]:
        """Return the lengths at which the tokens sent lately fall into as many equal parts as there are workers."""
        until = np.concatenate(([0.0], np.cumsum(self._tokens)))
        wanted = until[-1] * np.arange(1, workers) / workers
        borders: list[float] = np.interp(wanted, until, self._bounds).tolist()
        return borders

    def _out_of_balance(self, candidates: Candidates) -> int | None:
        """Return the position of the worker that was sent least when it is far behind, else None."""
        sent = self._loads.sent_tokens(candidates)
        before = self._sent_before.get(candidates)
        if before is None:
            self._sent_before.keep(candidates, sent)
            return None
        sent = sent - before
        least, most = float(sent.min()), float(sent.max())
        if most - least > self._abs_requests * self._mean_tokens and most > self._rel * least:
            return int(sent.argmin())
        return None

    def _around(self, position: int, workers: int) -> list[int]:
        """Return a position and its neighbours, the nearer first."""
        wanted = min(self._max_endpoints, workers)
        near = sorted(
            range(max(0, position - wanted), min(workers, position + wanted + 1)), key=lambda at: abs(at - position)
        )
        return near[:wanted]
