"""Distributions: means, caps and shares, with seeds that are given."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.simulation.loads.generators.draws import Zipf, lengths, poisson_starts, turn_counts


@pytest.mark.parametrize(("mean", "spread"), [(150, 0.8), (6000, 0.2), (60, 0.5)])
def test_lengths_have_their_mean(mean: float, spread: float) -> None:
    drawn = lengths(np.random.default_rng(1), 50_000, mean=mean, spread=spread, cap=10**9)
    assert abs(drawn.mean() / mean - 1) < 0.02
    assert abs(np.log(drawn).std() / spread - 1) < 0.05


def test_lengths_stay_between_one_token_and_their_cap() -> None:
    drawn = lengths(np.random.default_rng(1), 10_000, mean=3, spread=2.0, cap=10)
    assert (drawn.min(), drawn.max()) == (1, 10)


def test_arrivals_are_in_order_and_as_irregular_as_independent_ones_are() -> None:
    starts = poisson_starts(np.random.default_rng(1), 20_000, 1000.0)
    gaps = np.diff(starts)
    assert gaps.min() >= 0.0
    assert abs(gaps.mean() / 0.05 - 1) < 0.02
    assert abs(gaps.std() / gaps.mean() - 1) < 0.05


def test_zipf_shares_fall_with_the_rank() -> None:
    counts = np.bincount(Zipf(50, exponent=1.0).draw(np.random.default_rng(1), 200_000), minlength=50)
    assert len(counts) == 50
    assert abs(counts[0] / counts[1] - 2) < 0.1
    assert abs(counts[0] / counts[9] - 10) < 1


def test_without_an_exponent_all_are_equally_likely() -> None:
    counts = np.bincount(Zipf(10, exponent=0.0).draw(np.random.default_rng(1), 100_000), minlength=10)
    assert counts.min() > 9_500


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 5), st.floats(0, 1.5))
def test_distinct_draws_are_distinct(seed: int, each: int, exponent: float) -> None:
    rows = Zipf(50, exponent=exponent).draw_distinct(np.random.default_rng(seed), 40, each=each)
    assert rows.shape == (40, each)
    assert all(len(set(row)) == each for row in rows.tolist())


def test_distinct_draws_keep_to_the_law_as_far_as_they_can() -> None:
    rows = Zipf(100, exponent=1.0).draw_distinct(np.random.default_rng(1), 20_000, each=2)
    counts = np.bincount(rows.ravel(), minlength=100) / 20_000
    shares = 1 / np.arange(1, 101)
    shares /= shares.sum()
    expected = shares + shares * ((shares / (1 - shares)).sum() - shares / (1 - shares))
    assert np.all(np.abs(counts - expected) < 0.015)


def test_distinct_draws_come_in_any_order() -> None:
    rows = Zipf(100, exponent=1.0).draw_distinct(np.random.default_rng(1), 20_000, each=4)
    places = np.bincount(np.argwhere(rows == 0)[:, 1], minlength=4)
    assert places.max() / places.min() < 1.1


@settings(deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.data())
def test_turns_of_all_sessions_add_up(drawn: list[int], data: st.DataObject) -> None:
    requests = data.draw(st.integers(1, len(drawn)))
    counts = turn_counts(np.array(drawn), requests).tolist()
    assert sum(counts) == requests
    assert min(counts) >= 1
    assert counts[:-1] == drawn[: len(counts) - 1]
    assert counts[-1] <= drawn[len(counts) - 1]
