"""What is counted of prompts: look-ups by level, text and tokens by where they come from."""

from typing import Any

import numpy as np
import pytest

from extproc.models.tallies import ModelTallies
from extproc.telemetry.metrics import TokenMetrics
from extproc.tokens.prompt_tokens import CacheResult, PromptTokens


def prompt(cache: CacheResult, *, ids: int = 10, **sizes: Any) -> PromptTokens:  # noqa: ANN401
    empty = np.empty(0, dtype=np.uint64)
    return PromptTokens(np.zeros(ids, dtype=np.uint32), empty, 16, 0, cache, **sizes)


def counts(counter: Any) -> dict[tuple[str, ...], float]:  # noqa: ANN401 - a counter with labels
    return {labels: child._value.get() for labels, child in counter._metrics.items() if child._value.get()}


@pytest.mark.parametrize(
    ("cache", "lookups"),
    [
        ("level_0", {("m", "0", "hit"): 2}),
        ("level_1", {("m", "0", "miss"): 2, ("m", "1", "hit"): 2}),
        ("miss", {("m", "0", "miss"): 2, ("m", "1", "miss"): 2}),
        ("off", {}),
        ("given", {}),
    ],
)
def test_a_prompt_counts_at_the_levels_where_it_was_looked_up(
    cache: CacheResult, lookups: dict[tuple[str, ...], float]
) -> None:
    metrics = TokenMetrics()
    tallies = ModelTallies(metrics, "m")
    for _ in range(2):
        tallies.count(prompt(cache))
    assert counts(metrics.token_lookups) == {}
    tallies.flush()
    assert counts(metrics.token_lookups) == lookups
    tallies.flush()
    assert counts(metrics.token_lookups) == lookups


def test_text_and_tokens_are_encoded_or_reused() -> None:
    metrics = TokenMetrics()
    tallies = ModelTallies(metrics, "m")
    tallies.count(prompt("level_1", ids=100, text_bytes=400, reused_bytes=300, reused_tokens=70))
    tallies.count(prompt("miss", ids=5, text_bytes=20))
    tallies.flush()
    assert counts(metrics.prompt_bytes) == {("m", "encoded"): 120, ("m", "reused"): 300}
    assert counts(metrics.prompt_tokens) == {("m", "encoded"): 35, ("m", "reused"): 70}


def test_ids_from_the_client_are_neither() -> None:
    metrics = TokenMetrics()
    tallies = ModelTallies(metrics, "m")
    tallies.count(prompt("given", ids=100))
    tallies.flush()
    assert counts(metrics.prompt_tokens) == {}
    assert counts(metrics.prompt_bytes) == {}


def test_models_are_counted_apart() -> None:
    metrics = TokenMetrics()
    one, other = ModelTallies(metrics, "one"), ModelTallies(metrics, "other")
    one.count(prompt("level_0"))
    one.flush()
    other.flush()
    assert counts(metrics.token_lookups) == {("one", "0", "hit"): 1}
