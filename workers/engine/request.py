"""One request in an engine."""

from collections.abc import Callable, Sequence


class Request:
    """A prompt to compute and an answer to generate.

    ``hashes`` are those of the whole blocks of prompt and answer together, as far as they are known, each standing for
    the whole prefix that ends with its block. ``on_first`` and ``on_end`` are called with the time of the first token
    and of the last one; ``answer_tokens`` 0 computes the prompt only, and has no first token. ``tokens`` are the ids
    behind the hashes and ``cache_salt`` what is mixed into them, for whoever wants them.

    The engine writes the rest. ``cached_tokens`` is what of the prompt was cached when it was first looked up, and
    times are -1 until they are known.
    """

    __slots__ = (
        "answer_tokens", "arrived_at", "base_step", "blocks", "cache_salt", "cached_tokens", "computed",
        "first_token_at", "hashes", "lora", "on_end", "on_first", "over", "preempted", "produced", "prompt_tokens",
        "scheduled_at", "stored", "target", "ticket", "tokens",
    )  # fmt: skip

    def __init__(
        self,
        *,
        prompt_tokens: int,
        answer_tokens: int,
        hashes: Sequence[int],
        on_first: Callable[[float], None],
        on_end: Callable[[float], None],
        lora: str = "",
        tokens: Sequence[int] = (),
        cache_salt: str = "",
    ) -> None:
        self.prompt_tokens = prompt_tokens
        self.answer_tokens = answer_tokens
        self.hashes = hashes
        self.tokens = tokens
        self.lora = lora
        self.cache_salt = cache_salt
        self.on_first = on_first
        self.on_end = on_end
        self.cached_tokens = 0
        self.arrived_at = self.scheduled_at = self.first_token_at = -1.0
        self.preempted = 0
        self.over = False
        self.produced = 0
        """Tokens of the answer at ``base_step``, where it last began to generate."""
        self.base_step = 0
        self.ticket = 0
        """Which of the engine's plans concern it; 0 while it does not generate."""
        self.target = prompt_tokens
        """How many tokens must be computed before it generates: its answer's too after it was preempted."""
        self.computed = 0
        self.blocks: list[int] = []
        self.stored = 0
        """How many of its blocks are cached under their hashes."""
