"""The distributions that loads are drawn from."""

import numpy as np
import numpy.typing as npt

Generator = np.random.Generator
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def lengths(rng: Generator, count: int, *, mean: float, spread: float, cap: int) -> Ints:
    """Draw lengths in tokens: lognormal with this mean, ``spread`` in its logarithm, from 1 to ``cap``.

    The cap takes a little off the mean.
    """
    drawn = rng.lognormal(np.log(mean) - spread * spread / 2, spread, count)
    return np.clip(np.rint(drawn), 1, cap).astype(np.int64)


def poisson_starts(rng: Generator, count: int, secs: float) -> Floats:
    """Draw the times of ``count`` arrivals in ``secs``, in order: a Poisson process whose count is known."""
    starts: Floats = rng.random(count) * secs
    starts.sort()
    return starts


class Zipf:
    """Draws the numbers from 0 to ``count - 1``, number ``k`` in proportion to ``1 / (k + 1) ** exponent``."""

    def __init__(self, count: int, *, exponent: float) -> None:
        shares = np.arange(1, count + 1, dtype=np.float64) ** -exponent
        self._until = np.cumsum(shares / shares.sum())
        self._last = count - 1

    def draw(self, rng: Generator, count: int) -> Ints:
        """Draw ``count`` of them, each independent of the others."""
        drawn = self._until.searchsorted(rng.random(count), side="right")
        return np.minimum(drawn, self._last).astype(np.int64)

    def draw_distinct(self, rng: Generator, count: int, *, each: int) -> Ints:
        """Draw ``count`` rows of ``each`` different numbers, in random order.

        As if each row were drawn one by one, again where a number is in it already. ``each`` is at most a tenth of the
        numbers there are, or 1, so that soon something else is drawn.
        """
        rows = self.draw(rng, count * each).reshape(count, each)
        twins = _twins(rows)
        while drawn_again := np.count_nonzero(twins):
            rows[twins] = self.draw(rng, int(drawn_again))
            twins = _twins(rows)
        return rng.permuted(rows, axis=1)


def _twins(rows: Ints) -> npt.NDArray[np.bool_]:
    """Return which numbers stand further ahead in their row as well."""
    order = np.argsort(rows, axis=1, kind="stable")
    ordered = np.take_along_axis(rows, order, axis=1)
    twins = np.zeros(rows.shape, dtype=np.bool_)
    np.put_along_axis(twins, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    return twins


def turn_counts(drawn: Ints, requests: int) -> Ints:
    """Return how many turns each session has, so that all have ``requests``; the last one may be cut short.

    ``drawn`` has at least one for every request, all of them 1 or more.
    """
    ends = np.cumsum(drawn)
    last = int(ends.searchsorted(requests))
    counts = drawn[: last + 1].copy()
    counts[last] -= ends[last] - requests
    return counts
