"""What a run showed, request by request and over time."""

from array import array
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


class Times(NamedTuple):
    """Seconds over all requests."""

    mean: float
    p50: float
    p90: float
    p99: float


def times(secs: Floats) -> Times:
    """Return mean and percentiles."""
    p50, p90, p99 = np.percentile(secs, (50, 90, 99)).tolist()
    return Times(float(secs.mean()), p50, p90, p99)


class Requests:
    """One number a request in each column, in the order in which they were sent; -1 is not known.

    Times in seconds: ``sent_at`` since the start of the load, ``ttft`` and ``latency`` since the request was sent.
    ``worker`` is its position, ``ideal`` how many of its prompt tokens one boundless cache for the whole fleet would
    have had, ``matched`` how many the policy took to be cached where it sent the request.
    """

    INTEGERS = ("worker", "prompt", "cached", "ideal", "matched", "answer")
    FLOATS = ("sent_at", "ttft", "latency")

    def __init__(self) -> None:
        self._integers = {name: array("q") for name in self.INTEGERS}
        self._floats = {name: array("d") for name in self.FLOATS}

    def __len__(self) -> int:
        return len(self._floats["sent_at"])

    def add(self, *, sent_at: float, worker: int, prompt: int, answer: int, ideal: int, matched: int) -> int:
        """Note a request that is sent; return its number."""
        integers, floats = self._integers, self._floats
        integers["worker"].append(worker)
        integers["prompt"].append(prompt)
        integers["answer"].append(answer)
        integers["ideal"].append(ideal)
        integers["matched"].append(matched)
        integers["cached"].append(-1)
        floats["sent_at"].append(sent_at)
        floats["ttft"].append(-1.0)
        floats["latency"].append(-1.0)
        return len(self) - 1

    def first_token(self, number: int, *, secs: float, cached: int) -> None:
        """Note a first token, and how much of the prompt was cached."""
        self._floats["ttft"][number] = secs
        self._integers["cached"][number] = cached

    def ended(self, number: int, *, secs: float) -> None:
        """Note the end of an answer."""
        self._floats["latency"][number] = secs

    def integers(self, name: str) -> npt.NDArray[np.int64]:
        """Return a column of whole numbers."""
        return np.frombuffer(self._integers[name], np.int64)

    def floats(self, name: str) -> Floats:
        """Return a column of seconds."""
        return np.frombuffer(self._floats[name], np.float64)


class Samples:
    """How many requests each worker had, looked at in equal steps of time."""

    def __init__(self) -> None:
        self.times = array("d")
        self._counts: list[list[int]] = []

    def add(self, time: float, unfinished: list[int]) -> None:
        """Take one look."""
        self.times.append(time)
        self._counts.append(unfinished)

    @property
    def unfinished(self) -> npt.NDArray[np.int64]:
        """One row a look, one column a worker."""
        return np.array(self._counts, dtype=np.int64)

    def imbalance(self) -> Floats:
        """Return the largest number over the mean at each look; 1 where there is nothing."""
        counts = self.unfinished
        if not len(counts):
            return np.zeros(0)
        mean = counts.mean(axis=1)
        ratio: Floats = np.divide(counts.max(axis=1), mean, out=np.ones(len(counts)), where=mean > 0)
        return ratio
