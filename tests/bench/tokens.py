"""What tokens cost: each case beside what it is measured against, in one run.

The models have DeepSeek's vocabulary of 129,280 tokens, with its own chat template and with that of Qwen 2.5 (ChatML);
the texts are sources of the standard library, and no text is used twice. Everything goes through the reader that
routers use, on warm memory.
"""

import gc
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from extproc.api.body import RequestBody, decode
from extproc.api.paths import DECODERS
from extproc.config.models import ModelSpec
from extproc.config.tokens import TokensSettings
from extproc.models.reader import PromptReader
from extproc.models.shelf import ModelShelf
from extproc.shm.layout import Part
from extproc.shm.token_store import TokenStore
from extproc.telemetry.metrics import Metrics, TokenMetrics
from tests.bench.inputs import Message, Texts, body_of, code, conversation, make_bench_model
from tests.bench.rows import Row, at_least, at_most
from tests.bench.token_processes import hit_rates
from tests.bench.token_stores import compare_stores
from tests.support.stores import make_segment

MODELS = ("chatml", "deepseek")
STORE_BYTES = 256 << 20
CASES = 30
WARM_UP = 15
CONVERSATION_BYTES = 48_000
TURNS = 40
NEW_TURN_BYTES = 200
SMALL_BYTES = 600

COLD_RATIO_BAR = 8
LEVEL_0_BAR_US = 100
LEVEL_1_BAR_US = 600
LEVEL_1_RATIO_BAR = 3
SMALL_BAR_US = 150
HIT_RATE_BAR = 0.02


class Bench:
    """The reader under measurement and the library it is measured against."""

    def __init__(self, directory: Path, kind: str) -> None:
        from transformers import AutoTokenizer  # noqa: PLC0415 - takes seconds

        self.kind = kind
        source = make_bench_model(directory, kind)
        self.reference = AutoTokenizer.from_pretrained(source)
        self.spec = ModelSpec(name="bench", source=str(source))
        segment = make_segment(STORE_BYTES)
        # Pages that nobody has touched yet cost a fault each; a service that runs for a while has them.
        np.frombuffer(segment.part(Part.TOKEN_STORE), dtype=np.uint8)[::4096] |= 0
        self.reader = self._reader(TokenStore.of_segment(segment))

    def _reader(self, store: TokenStore | None) -> PromptReader:
        settings = TokensSettings(verify_share=0.0, inline_secs=1.0)
        token_metrics = TokenMetrics()
        shelf = ModelShelf(settings=settings, store=store, metrics=token_metrics)
        shelf.update((self.spec,))
        return PromptReader(
            shelf=shelf, settings=settings, metrics=Metrics(), token_metrics=token_metrics, rng=random.Random(0)
        )

    def read(self, content: bytes) -> Any:  # noqa: ANN401
        return self.read_parsed(parse(content))

    def read_parsed(self, body: RequestBody) -> Any:  # noqa: ANN401
        prompts = self.reader.read(body, "bench")
        assert isinstance(prompts, tuple)
        return prompts[0]

    def by_reference(self, messages: list[Message]) -> Any:  # noqa: ANN401
        return self.reference.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)


def parse(content: bytes) -> RequestBody:
    body: RequestBody = decode(DECODERS["/v1/chat/completions"], content)
    return body


def seconds_each(work: Callable[[Any], Any], arguments: Sequence[Any]) -> float:
    """The median time of ``work``, each argument once."""
    times = []
    for argument in arguments:
        # A request has just been received when it is read: its bytes are in the processor's cache.
        received = bytes(bytearray(argument)) if isinstance(argument, bytes) else argument
        started = perf_counter()
        work(received)
        times.append(perf_counter() - started)
    return median(times)


def measure_tokens() -> list[Row]:
    """Measure every case."""
    texts = Texts(code())
    with tempfile.TemporaryDirectory(prefix="extproc-bench-") as name:
        benches = [Bench(Path(name, kind), kind) for kind in MODELS]
        gc.freeze()
        rows = [row for bench in benches for row in _rows(bench, texts)]
        one, four = hit_rates(benches[0].spec)
    held = abs(four - one) <= HIT_RATE_BAR
    rows.append(Row("bytes reused, 4 processes to 1", f"{four:.1%} to {one:.1%}", f"within {HIT_RATE_BAR:.0%}", held))
    for what, ours, lmdb in compare_stores():
        rows.append(Row(f"store, {what}: ours to LMDB", f"{ours * 1e6:.1f} to {lmdb * 1e6:.1f} µs"))
    return rows


def _rows(bench: Bench, texts: Texts) -> Iterator[Row]:
    kind = bench.kind
    grown = [conversation(texts, turns=TURNS, size=CONVERSATION_BYTES) for _ in range(WARM_UP + CASES)]
    for messages in grown[:WARM_UP]:
        bench.read(body_of(messages))
        bench.by_reference(messages)
    fresh = grown[WARM_UP:]
    cold = seconds_each(bench.read, [body_of(messages) for messages in fresh])
    theirs = seconds_each(bench.by_reference, fresh)
    tokens = median(len(bench.read(body_of(messages)).ids) for messages in fresh)
    yield at_least(
        f"{kind}: cold {CONVERSATION_BYTES // 1000} KB, {tokens:,.0f} tokens, to transformers",
        theirs / cold,
        COLD_RATIO_BAR,
    )
    again = seconds_each(bench.read, [body_of(messages) for messages in fresh])
    yield at_most(f"{kind}: the same prompt again (level 0)", again * 1e6, LEVEL_0_BAR_US)
    longer = [
        body_of(
            [
                *messages,
                {"role": "assistant", "content": texts.cut(NEW_TURN_BYTES // 2)},
                {"role": "user", "content": texts.cut(NEW_TURN_BYTES // 2)},
            ]
        )
        for messages in fresh
    ]
    turn = seconds_each(bench.read, longer)
    yield at_most(f"{kind}: {TURNS} messages and a new turn (level 1)", turn * 1e6, LEVEL_1_BAR_US)
    yield at_least(f"{kind}: the same, to a cold prompt", cold / turn, LEVEL_1_RATIO_BAR)
    small = [parse(body_of(conversation(texts, turns=1, size=SMALL_BYTES))) for _ in range(8 * (WARM_UP + CASES))]
    seconds_each(bench.read_parsed, small[: 8 * WARM_UP])
    yield at_most(
        f"{kind}: {SMALL_BYTES} bytes, level 1 miss, parsed",
        seconds_each(bench.read_parsed, small[8 * WARM_UP :]) * 1e6,
        SMALL_BAR_US,
    )
