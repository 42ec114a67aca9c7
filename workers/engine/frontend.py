"""The API server before an engine: one process, one request at a time for part of the way."""

from workers.engine.profile import FrontendCosts


class Frontend:
    """Says when a request reaches the engine."""

    def __init__(self, costs: FrontendCosts) -> None:
        self._costs = costs
        self._free_at = 0.0

    def reaches_engine_at(self, now: float, prompt_tokens: int) -> float:
        """Return when a request that arrives ``now`` reaches the engine. To be called in the order of arrival."""
        costs = self._costs
        begins = max(now, self._free_at)
        self._free_at = begins + costs.busy_secs + costs.busy_token_secs * prompt_tokens
        return begins + costs.secs + costs.token_secs * max(prompt_tokens - costs.free_tokens, 0)
