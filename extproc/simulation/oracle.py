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
    """The soonest first token, by the truth.

    With ``true_queues`` or ``true_caches`` off it believes what the service believes of that, which shows how much of a
    policy's regret comes from knowing it badly.
    """

    name: ClassVar[str] = "oracle"
    needs: ClassVar[Needs] = Needs.PREFIXES

    def __init__(
        self,
        context: PolicyContext,
        workers: Sequence[ModelledWorker],
        *,
        true_queues: bool = True,
        true_caches: bool = True,
    ) -> None:
        self._workers = workers
        self._context = context
        self._ranking = Ranking(context)
        self._true_queues = true_queues
        self._true_caches = true_caches

    def choose(self, request: RoutingRequest, candidates: Candidates) -> Choice:
        """Work out all first tokens."""
        prompt = request.prompts[0]
        tokens = len(prompt.ids)
        modelled = [self._workers[worker.slot] for worker in candidates]
        now = self._context.clock()
        if self._true_caches:
            hashes: list[int] = prompt.block_hashes.tolist()
            cached = [min(worker.will_have_cached(hashes), tokens - 1) for worker in modelled]
        else:
            held = self._context.prefixes.match(prompt.block_hashes, candidates.slots) * prompt.block_size
            cached = [min(int(have), tokens - 1) for have in held]
        if self._true_queues:
            begins = np.array([worker.begins_in_secs(now, tokens) for worker in modelled])
        else:
            begins = self._context.loads.read(candidates).expected_wait_secs()
        work = [
            worker.profile.step.prefill_secs(tokens - have, have) for worker, have in zip(modelled, cached, strict=True)
        ]
        order = self._ranking.lowest(begins + (1.0 + WORK_WEIGHT) * np.array(work))
        return Choice(picked(candidates, order), Reason.EXPECTED_LATENCY, cached[order[0]])
