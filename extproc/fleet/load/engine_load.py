"""What one reading of an engine's metrics says."""

import msgspec


class LoraState(msgspec.Struct, frozen=True, kw_only=True):
    """The LoRA adapters that requests in the engine use, and how many may be in one batch.

    vLLM 0.32 writes the same names, those of running and waiting requests together, into both lists. ``max_adapters``
    is 0 when it is not known.
    """

    max_adapters: int
    running: tuple[str, ...]
    waiting: tuple[str, ...]

    @property
    def has_room(self) -> bool:
        """Whether another adapter fits beside those in use; also where it is not known how many do."""
        return not self.max_adapters or len({*self.running, *self.waiting}) < self.max_adapters


class EngineLoad(msgspec.Struct, frozen=True, kw_only=True):
    """The load of one worker: of one data parallel rank, or of a whole server that is one worker.

    Present state: requests ``running`` and ``waiting`` are sums over the worker's ranks. ``kv_usage`` is the mean, from
    0 to 1, so that ``kv_usage * num_gpu_blocks`` blocks are in use; blocks that only cache prefixes do not count as
    used. ``block_size`` (tokens) and ``num_gpu_blocks`` (of all the worker's ranks) are 0 when they are not known.
    ``lora`` is None until the server has served a request with LoRA switched on; it is the same for all its ranks, as
    vLLM tells no more. Engines publish all this once per step, so it is up to one prefill step old.

    Counters, since the engine started, summed over the worker's ranks; None when the engine does not have them:

    * ``prefix_queries`` and ``prefix_hits``: prompt tokens looked up and found in the prefix cache. Old versions count
      a prompt again each time they try to find room for it.
    * ``computed_tokens``: prompt tokens that were not found and were computed, counted when the prompt is done.
    * ``prefill_requests``, ``prefill_secs``, ``prefill_tokens``: finished requests, the time from the first step of
      each to its first token, the prompt tokens computed for them. Each that shares a step has all of its time.
    * ``decode_tokens`` and ``decode_secs``: tokens after the first of each answer, and the time of each since the one
      before. Steps that prefill other prompts are part of it.
    * ``queue_requests`` and ``queue_secs``: finished requests and the time they waited for their first step.
    * ``first_tokens`` and ``first_token_secs``: first tokens, and the time since the arrival of their requests.
    """

    running: int
    waiting: int = 0
    kv_usage: float = 0.0
    block_size: int = 0
    num_gpu_blocks: int = 0
    lora: LoraState | None = None
    prefix_queries: float | None = None
    prefix_hits: float | None = None
    computed_tokens: float | None = None
    prefill_requests: float | None = None
    prefill_secs: float | None = None
    prefill_tokens: float | None = None
    decode_tokens: float | None = None
    decode_secs: float | None = None
    queue_requests: float | None = None
    queue_secs: float | None = None
    first_tokens: float | None = None
    first_token_secs: float | None = None
