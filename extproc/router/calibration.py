"""Whether predictions come true: a share of the answers is read for the cached tokens that their workers report.

A sample is a request whose policy has said how much of its prompt the worker holds. Where that is no count of the
engine's own tokens (a prompt known by its text, or with media in it), and where the engine reports several prompts as
one, there is nothing to compare. What was predicted is true of the first choice only, so a sample that another worker
has served is dropped, counted as `moved`. An answer that is no success is no sample.
"""

import random

from extproc.fleet.precision import Precisions, agreement
from extproc.fleet.worker import Worker
from extproc.policies.base import most_cached_tokens
from extproc.routing.decision import Decision
from extproc.stream.exchange import Answer
from extproc.stream.usage_tail import Usage
from extproc.telemetry.metrics import Metrics
from extproc.tokens.prompt_tokens import PromptTokens

MAX_OPEN = 256
"""Answers that are read at a time; each holds at most twice the bytes of its tail. No others are drawn meanwhile."""

_OK = 200


class Calibration:
    """Draws samples, and compares and counts them, for one router. ``share`` is that of the requests to draw."""

    def __init__(self, *, share: float, rng: random.Random, precisions: Precisions, metrics: Metrics) -> None:
        self._share = share
        self._random = rng.random
        self._precisions = precisions
        self._tokens = metrics.cached_tokens
        self._samples = metrics.cached_tokens_samples
        self._open = 0

    def draw(self, decision: Decision, prompts: tuple[PromptTokens, ...]) -> "Sample | None":
        """Return a sample of a request when it is to be one; it has to be ended then."""
        if decision.matched_tokens is None or self._random() >= self._share or self._open >= MAX_OPEN:
            return None
        if len(prompts) != 1 or not prompts[0].exact:
            return None
        self._open += 1
        (prompt,) = prompts
        return Sample(
            calibration=self,
            worker=decision.worker,
            policy=decision.policy,
            predicted=min(decision.matched_tokens, most_cached_tokens(prompt)),
            block_size=prompt.block_size,
        )

    def close(self, sample: "Sample", usage: Usage | None) -> None:
        """Compare and count a sample that has ended."""
        self._open -= 1
        if sample.succeeded:
            self._samples.labels(sample.worker.id, sample.policy, self._compared(sample, usage)).inc()

    def _compared(self, sample: "Sample", usage: Usage | None) -> str:
        if sample.moved:
            return "moved"
        if usage is None:
            return "absent"
        predicted, reported, size = sample.predicted, usage.cached_tokens, sample.block_size
        self._tokens.labels(sample.worker.id, sample.policy, "predicted").inc(predicted)
        self._tokens.labels(sample.worker.id, sample.policy, "reported").inc(reported)
        blocks = predicted // size - reported // size
        # A part of a block is an uncertainty of the prediction: engines have whole ones.
        agreed = agreement(predicted, reported, block_size=size) if blocks else 1.0
        self._precisions.learn(sample.worker.slot, agreed)
        if not blocks:
            return "equal"
        return "over" if blocks > 0 else "under"


class Sample:
    """One request under comparison, from its choice to the end of its answer.

    ``predicted`` are the tokens that ``worker``, the first choice, should have cached.
    """

    __slots__ = ("_calibration", "block_size", "moved", "policy", "predicted", "succeeded", "worker")

    def __init__(
        self, *, calibration: Calibration, worker: Worker, policy: str, predicted: int, block_size: int
    ) -> None:
        self._calibration = calibration
        self.worker = worker
        self.policy = policy
        self.predicted = predicted
        self.block_size = block_size
        self.succeeded = False
        self.moved = False

    def answered(self, answer: Answer) -> None:
        """Take what the response headers tell."""
        self.succeeded = answer.status == _OK
        self.moved = bool(answer.served) and answer.served != self.worker.address

    def end(self, usage: Usage | None) -> None:
        """Compare; ``usage`` is what the answer says, None where it does not say it or could not be read."""
        self._calibration.close(self, usage)
