"""The cache of one engine as its stream of batches tells of it, and how far that can be believed."""

from collections.abc import Callable, Sequence
from enum import StrEnum

from extproc.fleet.load.engine_load import EngineLoad
from extproc.kvevents.decode import PayloadError, decode_batch
from extproc.kvevents.engine_blocks import Changes, EngineBlocks, IncompatibleBlockSize
from extproc.kvevents.events import Event
from extproc.kvevents.stream import Problem

BLOCKS_OF_SILENCE = 2
"""Blocks that an engine must have filled without a word before it counts as silent: one may be on its way."""


class Doubt(StrEnum):
    """Why a worker's events are not believed, beside what may be wrong with the stream."""

    PAYLOAD = "payload"
    """A batch cannot be read."""
    BLOCK_SIZE = "block_size"
    """The engine's blocks are no multiple of ``models.block_size``."""
    RANK = "rank"
    """The batches are those of another data parallel rank."""
    SILENT = "silent"
    """The engine computes prompts and announces nothing: a wrong endpoint or topic, most likely."""
    IMPRECISE = "imprecise"
    """What was predicted does not agree with what the engine reports."""
    ROOM = "room"
    """Blocks of its follow others that are not known, or not any more for want of room (`kv_events.max_blocks`)."""
    MODEL = "model"
    """It is not known which of the configured models the worker serves."""


class EngineCache:
    """Takes the batches of one engine (or rank) and keeps what they come to; a sink of its stream.

    ``complete`` tells whether every block is known that the engine holds; else those that are known are right, and
    others are there too, until the engine has computed as much as its cache holds since ``unknown_since``.
    ``on_lag`` is given how old each group of batches is, by the engine's clock, ``on_doubt`` what is wrong, once each
    time it begins. ``clock`` and ``wall_clock`` return seconds, the latter since 1970.
    """

    def __init__(
        self,
        *,
        blocks: EngineBlocks,
        rank: int,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        on_doubt: Callable[[Problem | Doubt, str], None],
        on_lag: Callable[[float], None],
        on_batches: Callable[[], None],
    ) -> None:
        self.blocks = blocks
        self.complete = False
        self.unknown_since = clock()
        self.doubts: set[Doubt] = set()
        self.events = 0
        self._rank = rank
        self._clock = clock
        self._wall_clock = wall_clock
        self._on_doubt = on_doubt
        self._on_lag = on_lag
        self._on_batches = on_batches
        self._heard = 0
        self._rejected = 0
        self._watched: tuple[int, float, float] | None = None
        self._quiet_since = 0.0

    def batches(self, payloads: Sequence[bytes]) -> None:
        """Take the next batches of the stream."""
        self._heard += len(payloads)
        self.doubts.discard(Doubt.SILENT)
        events: list[Event] = []
        now = self._clock()
        for payload in payloads:
            try:
                batch = decode_batch(payload)
            except PayloadError as error:
                self._lose(Doubt.PAYLOAD, str(error), now)
                # What came before it may have been undone by it.
                events.clear()
                continue
            if batch.rank is not None and batch.rank != self._rank:
                self._lose(Doubt.RANK, f"the batches are of rank {batch.rank}", now)
                events.clear()
                continue
            events += batch.events
            self._on_lag(max(self._wall_clock() - batch.time, 0.0))
        self.events += len(events)
        try:
            self.blocks.apply(events, now=now)
        except IncompatibleBlockSize as error:
            self._lose(Doubt.BLOCK_SIZE, str(error), now)
        self._on_batches()

    def reset(self, *, complete: bool) -> None:
        """Begin anew, with an empty cache or one of which nothing is known."""
        self.blocks.clear()
        self.doubts -= {Doubt.PAYLOAD, Doubt.BLOCK_SIZE, Doubt.RANK}
        self.complete = complete
        self.unknown_since = self._clock()
        self._on_batches()

    def problem(self, problem: Problem, detail: str) -> None:
        """Learn what is wrong with the stream."""
        self._on_doubt(problem, detail)

    def take_changes(self) -> Changes:
        """Return what changed since the last call."""
        self.blocks.expire(self._clock())
        rejected = self.blocks.orphans_rejected
        if rejected > self._rejected and self.complete:
            self._on_doubt(Doubt.ROOM, f"{rejected - self._rejected} events follow blocks that are not known")
            self.complete = False
            self.unknown_since = self._clock()
        self._rejected = rejected
        return self.blocks.take_changes()

    def turned_over(self, since: float) -> None:
        """Learn that the engine has computed as much as its cache holds since then; 0: it has not, or does not tell."""
        if not self.complete and since > self.unknown_since and not self.doubts:
            self.complete = True

    def compare(self, load: EngineLoad, *, silent_after_secs: float) -> None:
        """Compare a reading of the engine's counters with what it has announced."""
        computed, requests = load.computed_tokens, load.first_tokens
        if computed is None or requests is None or not load.block_size:
            return
        now = self._clock()
        if self._watched is None or self._watched[0] != self._heard or computed < self._watched[1]:
            self._watched = (self._heard, computed, requests)
            self._quiet_since = now
            return
        # New tokens begin with a block, and whatever does not fill one is not announced.
        tokens = computed - self._watched[1] - (requests - self._watched[2]) * (load.block_size - 1)
        if tokens < BLOCKS_OF_SILENCE * load.block_size:
            self._quiet_since = now
        elif now - self._quiet_since >= silent_after_secs:
            # What is known may still be right: if so, the next batch follows the last.
            self._doubt(Doubt.SILENT, f"it has computed {computed - self._watched[1]:.0f} tokens without a word")

    def distrust(self, detail: str) -> None:
        """Learn that predictions do not come true."""
        self._lose(Doubt.IMPRECISE, detail, self._clock())

    @property
    def precise(self) -> bool:
        """Whether what is known is what the engine holds, as far as its stream is up to date."""
        return self.complete and not self.doubts

    def _doubt(self, doubt: Doubt, detail: str) -> None:
        if doubt not in self.doubts:
            self.doubts.add(doubt)
            self._on_doubt(doubt, detail)

    def _lose(self, doubt: Doubt, detail: str, now: float) -> None:
        self._doubt(doubt, detail)
        self.blocks.clear()
        self.complete = False
        self.unknown_since = now
