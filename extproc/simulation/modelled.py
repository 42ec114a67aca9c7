"""A worker in virtual time: an API server and a modelled engine."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import partial

from extproc.fleet.load.engine_load import EngineLoad
from extproc.simulation.timeline import Timeline
from workers.engine.device import Device
from workers.engine.engine import Engine
from workers.engine.events import CacheEvent
from workers.engine.frontend import Frontend
from workers.engine.profile import Profile
from workers.engine.request import Request


def shared_blocks(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many leading blocks two chains of hashes share."""
    # Each hash stands for all before it, so where they differ once they differ for good.
    length = min(len(one), len(other))
    return bisect_left(range(length), 1, key=lambda place: one[place] != other[place])


class ModelledWorker:
    """Serves requests in the time that its profile says.

    ``on_events`` is called with what the cache gained and lost, whenever that is something.
    """

    def __init__(
        self,
        timeline: Timeline,
        profile: Profile,
        *,
        device: Device | None = None,
        on_events: Callable[[Sequence[CacheEvent]], None] | None = None,
    ) -> None:
        self.engine = Engine(profile, device=device, keep_events=on_events is not None)
        self.profile = profile
        self._timeline = timeline
        self._frontend = Frontend(profile.frontend)
        self._on_events = on_events
        self._armed_for = -1.0
        self.arriving: dict[Request, float] = {}
        """Requests on their way through the API server, and when they reach the engine."""

    def take(self, request: Request, *, on_headers: Callable[[], None]) -> None:
        """Serve a request: call ``on_headers`` when it reaches the engine, where streamed answers begin."""
        at = self._frontend.reaches_engine_at(self._timeline.now, request.prompt_tokens)
        self.arriving[request] = at
        self._timeline.at(at, partial(self._reach, request, on_headers))

    def load(self) -> EngineLoad:
        """Return what its metrics say."""
        shown = self.engine.shown
        counters = shown.counters
        return EngineLoad(
            running=shown.running,
            waiting=shown.waiting,
            kv_usage=shown.kv_usage,
            block_size=self.profile.block_size,
            num_gpu_blocks=self.profile.num_blocks,
            prefix_queries=counters.prefix_queries,
            prefix_hits=counters.prefix_hits,
            computed_tokens=counters.computed_tokens,
            prefill_requests=counters.prefill_requests,
            prefill_secs=counters.prefill_secs,
            prefill_tokens=counters.prefill_tokens,
            decode_tokens=counters.decode_tokens,
            decode_secs=counters.decode_secs,
            queue_requests=counters.prefill_requests,
            queue_secs=counters.queue_secs,
            first_tokens=counters.first_tokens,
            first_token_secs=counters.first_token_secs,
        )

    def begins_in_secs(self, now: float, prompt_tokens: int) -> float:
        """Return when the engine would begin with a prompt that arrives now, from now on; for those who see all."""
        step = self.profile.step
        secs = self.engine.backlog_secs(now)
        for request in self.arriving:
            cached = min(self.engine.cached_tokens(request.hashes), request.prompt_tokens - 1)
            secs += step.prefill_secs(request.prompt_tokens - cached, cached)
        return max(secs, self._frontend.would_reach_engine_at(now, prompt_tokens) - now)

    def will_have_cached(self, hashes: Sequence[int]) -> int:
        """Return how many leading tokens of a prompt will be cached when all that is there is computed."""
        block_size = self.profile.block_size
        blocks = self.engine.cached_tokens(hashes) // block_size
        for request in (*self.arriving, *self.engine.unprocessed()):
            blocks = max(blocks, shared_blocks(hashes, request.hashes))
        return blocks * block_size

    def _reach(self, request: Request, on_headers: Callable[[], None]) -> None:
        del self.arriving[request]
        on_headers()
        self.engine.add(request, self._timeline.now)
        self._arm()

    def _arm(self) -> None:
        due = self.engine.due
        if due != self._armed_for and due < float("inf"):
            self._armed_for = due
            self._timeline.at(due, partial(self._advance, due))

    def _advance(self, due: float) -> None:
        # A request that came meanwhile may have made it due sooner.
        if self.engine.due != due:
            return
        self.engine.advance()
        self._arm()
        events = self.engine.events
        if self._on_events is not None and events:
            self.engine.events = []
            self._on_events(events)
