"""How long engines keep what they have computed, from what their counters say."""

from collections import deque

from extproc.fleet.load.engine_load import EngineLoad

STEPS = 128
"""Readings are kept so that any three in a row are at least one of so many parts of the cache apart."""


class Turnover:
    """When an engine has computed what, so that it can be told since when it has computed as much as its cache holds.

    What it was sent before that moment, and not again since, must have made room: the least recently used goes first.
    Every token that is computed takes room, those of answers too; tokens found in the cache take none. It errs by as
    long as a request waits and runs, as it is used from its beginning there to its end. Some two hundred readings are
    kept, however far they go back.
    """

    def __init__(self) -> None:
        self._readings: deque[tuple[float, float]] = deque()

    def __len__(self) -> int:
        return len(self._readings)

    def clear(self) -> None:
        """Forget everything: the engine counts from zero again, and its cache is empty."""
        self._readings.clear()

    def cached_since(self, load: EngineLoad, *, now: float) -> float:
        """Take a reading, and return that moment; 0 while there is none, or where the engine does not tell."""
        room = load.block_size * load.num_gpu_blocks
        if load.computed_tokens is None or not room:
            return 0.0
        computed = load.computed_tokens + (load.first_tokens or 0.0) + (load.decode_tokens or 0.0)
        readings = self._readings
        while len(readings) > 1 and readings[1][1] <= computed - room:
            readings.popleft()
        since = readings[0][0] if readings and readings[0][1] <= computed - room else 0.0
        # The last reading is replaced while it is near the one before: of an engine that idles, the latest is wanted.
        if len(readings) > 1 and computed - readings[-2][1] < room / STEPS:
            readings.pop()
        readings.append((now, computed))
        return since
