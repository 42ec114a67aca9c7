"""What an engine tells of itself; it changes when a step ends, as vLLM's metrics do."""

import msgspec


class Counters(msgspec.Struct):
    """Sums since the engine started, in requests, tokens and seconds.

    ``prefix_*`` count prompt tokens when a request is let in, ``computed_tokens`` those that were not cached when the
    prompt is done. ``prefill_*``, ``queue_*`` and ``e2e_*`` are of finished requests, ``decode_*`` of all tokens after
    the first of each answer.
    """

    prefix_queries: int = 0
    prefix_hits: int = 0
    computed_tokens: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    prefill_requests: int = 0
    prefill_secs: float = 0.0
    prefill_tokens: int = 0
    queue_secs: float = 0.0
    decode_tokens: int = 0
    decode_secs: float = 0.0
    first_tokens: int = 0
    first_token_secs: float = 0.0
    preemptions: int = 0
    evictions: int = 0
    busy_secs: float = 0.0


class Shown(msgspec.Struct):
    """The last state that was told. ``kv_usage`` is the share of blocks that requests hold."""

    running: int = 0
    waiting: int = 0
    kv_usage: float = 0.0
    counters: Counters = msgspec.field(default_factory=Counters)
