"""The API server before an engine: one process, one request at a time for part of the way."""

from workers.engine.profile import FrontendCosts


class Frontend:
    """Says when a request reaches the engine."""

    def __init__(self, costs: FrontendCosts) -> None:
        self._costs = costs
        self._free_at = 0.0

    def reaches_engine_at(self, now: float, prompt_tokens: int) -> float:
        """Return when a request that arrives ``now`` reaches the engine. To be called in the order of arrival."""
        reaches_at = self.would_reach_engine_at(now, prompt_tokens)
        costs = self._costs
        self._free_at = max(now, self._free_at) + costs.busy_secs + costs.busy_token_secs * prompt_tokens
        return reaches_at

    def would_reach_engine_at(self, now: float, prompt_tokens: int) -> float:
        """Return when a request that arrives ``now`` would reach the engine."""
        costs = self._costs
        return max(now, self._free_at) + costs.secs + costs.token_secs * max(prompt_tokens - costs.free_tokens, 0)
