"""Engines of the model driven through a script of arrivals and aborts in virtual time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf

from workers.engine.engine import Engine
from workers.engine.profile import Profile, StepCosts
from workers.engine.request import Request

STEP = StepCosts(
    base_secs=0.010,
    sequence_secs=0.0001,
    context_token_secs=0.000_001,
    prefill_token_secs=0.0002,
    attention_secs=0.000_000_01,
    eager_tokens=64,
    eager_secs=0.012,
)


def small_profile(
    *,
    step: StepCosts = STEP,
    block_size: int = 4,
    blocks: int = 64,
    max_num_seqs: int = 4,
    max_num_batched_tokens: int = 32,
    max_loras: int = 1,
    lora_load_secs: float = 0.5,
    enable_prefix_caching: bool = True,
) -> Profile:
    """An engine whose limits are met by a handful of short requests."""
    return Profile(
        step=step,
        block_size=block_size,
        kv_cache_tokens=blocks * block_size,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        max_loras=max_loras,
        lora_load_secs=lora_load_secs,
        enable_prefix_caching=enable_prefix_caching,
    )


@dataclass(slots=True, kw_only=True)
class Ask:
    """A request of a script; its prompt's blocks are named by ``prefix`` (equal numbers: equal blocks)."""

    at: float
    prompt_tokens: int
    answer_tokens: int
    prefix: Sequence[int] = ()
    lora: str = ""
    abort_at: float = inf


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What became of one of them; times are -1 where it did not come to that."""

    request: Request
    first_at: float = -1.0
    ended_at: float = -1.0
    ends: int = 0
    produced: list[int] = field(default_factory=list)


def chained(prefix: Sequence[int], blocks: int, *, lora: str, tail: int) -> tuple[int, ...]:
    """Hashes of ``blocks`` blocks: those of ``prefix``, then blocks that only ``tail`` has."""
    parent = hash(lora) if lora else 0
    hashes = []
    for place in range(blocks):
        parent = hash((parent, prefix[place] if place < len(prefix) else (tail, place)))
        hashes.append(parent)
    return tuple(hashes)


class Bench:
    """One engine and its requests."""

    def __init__(self, engine: Engine, *, after_step: Callable[[Engine], None] = lambda _: None) -> None:
        self.engine = engine
        self.now = 0.0
        self._after_step = after_step

    def add(self, ask: Ask, *, tail: int) -> Outcome:
        """Add a request now."""
        profile = self.engine.profile
        blocks = (ask.prompt_tokens + ask.answer_tokens) // profile.block_size

        def on_first(at: float) -> None:
            outcome.first_at = at

        def on_end(at: float) -> None:
            outcome.ended_at = at
            outcome.ends += 1

        request = Request(
            prompt_tokens=ask.prompt_tokens,
            answer_tokens=ask.answer_tokens,
            hashes=chained(ask.prefix, blocks, lora=ask.lora, tail=tail),
            on_first=on_first,
            on_end=on_end,
            lora=ask.lora,
        )
        outcome = Outcome(request=request)
        self.engine.add(request, self.now)
        return outcome

    def run_until(self, at: float) -> None:
        """Do what is due until then."""
        while self.engine.due <= at and self.engine.due != inf:
            self.now = self.engine.due
            self.engine.advance()
            self._after_step(self.engine)
        self.now = max(self.now, at) if at != inf else self.now

    def run(self, asks: Sequence[Ask], *, looks: Sequence[float] = ()) -> list[Outcome]:
        """Play a script to its end; at each of ``looks`` note how many tokens of each answer there are."""
        outcomes: dict[int, Outcome] = {}
        events = [(ask.at, 0, number) for number, ask in enumerate(asks)]
        events += [(ask.abort_at, 1, number) for number, ask in enumerate(asks) if ask.at <= ask.abort_at < inf]
        events += [(at, 2, -1) for at in looks]
        for at, kind, number in sorted(events):
            self.run_until(at)
            if kind == 0:
                outcomes[number] = self.add(asks[number], tail=number)
            elif kind == 1:
                self.engine.abort(outcomes[number].request, at)
            else:
                for outcome in outcomes.values():
                    if not outcome.request.over:
                        outcome.produced.append(self.engine.produced(outcome.request, at))
        self.run_until(inf)
        return [outcomes[number] for number in range(len(asks))]
