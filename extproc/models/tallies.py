"""What is counted of every prompt of a model."""

from collections.abc import Mapping
from types import MappingProxyType

from extproc.telemetry.metrics import TokenMetrics
from extproc.telemetry.tally import Tally
from extproc.tokens.prompt_tokens import CacheResult, PromptTokens

_LOOKUPS: Mapping[CacheResult, tuple[tuple[str, str], ...]] = MappingProxyType(
    {
        "level_0": (("0", "hit"),),
        "level_1": (("0", "miss"), ("1", "hit")),
        "miss": (("0", "miss"), ("1", "miss")),
        "off": (),
        "given": (),
    }
)
"""Which look-ups, by level and result, a prompt took."""


class ModelTallies:
    """Counts for one model, written by :meth:`flush`."""

    def __init__(self, metrics: TokenMetrics, model: str) -> None:
        self._prompts = dict.fromkeys(_LOOKUPS, 0)
        self._lookups = {
            pair: Tally(metrics.token_lookups.labels(model, *pair)) for pairs in _LOOKUPS.values() for pair in pairs
        }
        self._bytes = [Tally(metrics.prompt_bytes.labels(model, origin)) for origin in ("encoded", "reused")]
        self._tokens = [Tally(metrics.prompt_tokens.labels(model, origin)) for origin in ("encoded", "reused")]

    def count(self, tokens: PromptTokens) -> None:
        """Count one prompt."""
        self._prompts[tokens.cache] += 1
        self._bytes[0].add(tokens.text_bytes - tokens.reused_bytes)
        self._bytes[1].add(tokens.reused_bytes)
        if tokens.cache != "given":
            self._tokens[0].add(len(tokens.ids) - tokens.reused_tokens)
            self._tokens[1].add(tokens.reused_tokens)

    def flush(self) -> None:
        """Write what was counted since the last time."""
        for result, count in self._prompts.items():
            for pair in _LOOKUPS[result] if count else ():
                self._lookups[pair].add(count)
            self._prompts[result] = 0
        for tally in (*self._lookups.values(), *self._bytes, *self._tokens):
            tally.flush()
