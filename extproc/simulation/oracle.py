"""The oracle: what could be chosen if one saw the engines themselves.

It knows each engine's true state at this very moment: what is cached, including what prompts before ours will have
cached by then; how long every step, prompt and answer there takes; which request is where. For each worker it works out
when the first token would come, and adds ``WORK_WEIGHT`` times the time for which our prompt keeps that engine from
others. It is greedy: it knows nothing of requests to come. So it is no bound, but what perfect information is worth.
"""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from extproc.api.request import RoutingRequest
from extproc.fleet.candidates import Candidates
from extproc.policies.base import Choice, Needs, PolicyContext, Ranking, Reason, picked
from extproc.simulation.modelled import ModelledWorker

WORK_WEIGHT = 1.0


class Oracle:
    """The soonest first token, by the truth."""

    name: ClassVar[str] = "oracle"
    needs: ClassVar[Needs] = Needs.PREFIXES

    def __init__(self, context: PolicyContext, workers: Sequence[ModelledWorker]) -> None:
        self._workers = workers
        self._clock = context.clock
        self._ranking = Ranking(context)

    def choose(self, request: RoutingRequest, candidates: Candidates) -> Choice:
        """Work out all first tokens."""
        prompt = request.prompts[0]
        hashes: list[int] = prompt.block_hashes.tolist()
        now = self._clock()
        costs, matched = [], []
        for worker in candidates:
            modelled = self._workers[worker.slot]
            cached = min(modelled.will_have_cached(hashes), len(prompt.ids) - 1)
            work = modelled.profile.step.prefill_secs(len(prompt.ids) - cached, cached)
            costs.append(modelled.begins_in_secs(now, len(prompt.ids)) + work + WORK_WEIGHT * work)
            matched.append(cached)
        order = self._ranking.lowest(np.array(costs))
        return Choice(picked(candidates, order), Reason.EXPECTED_LATENCY, matched[order[0]])
