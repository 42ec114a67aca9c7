"""What recording adds to a request: taking its numbers at its choice, completing them at its end, and writing them.

The first is what the request itself waits for. The other rows are what the router does beside it, on a thread that
shares the interpreter with the requests; a recording that is off costs one look at a word.
"""

import gc
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from time import perf_counter, sleep

from extproc.api.body import decode
from extproc.api.openai_chat import decoder
from extproc.policies.base import Choice, Reason
from extproc.recording.part_writer import PartWriter
from extproc.recording.recorder import Recorder
from extproc.shm.recording import Order, RecordingOrder
from tests.bench.policies import WORKERS, make_candidates, make_request
from tests.bench.rows import Row, at_most
from tests.support.fleets import Shared

PROMPTS = {"600 B": 150, "8k tokens": 8_192, "128k tokens": 131_072}
REQUESTS = 2_000
FLUSHES = 10
BAR_US = 10
SALT = 0x9E3779B97F4A7C15


def measure_recording() -> Iterator[Row]:
    """Measure with prompts of three lengths; the bar holds for the usual one."""
    for prompt, tokens in PROMPTS.items():
        bench = _Bench(on=True)
        taken, written = bench.request_micros(tokens), bench.write_micros()
        if prompt == "8k tokens":
            yield at_most(f"recording, added to a request, {prompt}", taken, BAR_US)
            yield at_most(f"recording, with its writing, {prompt}", taken + written, BAR_US)
        else:
            yield Row(f"recording, added to a request, {prompt}", f"{taken:.1f} µs")
            yield Row(f"recording, with its writing, {prompt}", f"{taken + written:.1f} µs")
    yield Row("recording, off", f"{_Bench(on=False).request_micros(PROMPTS['8k tokens']):.2f} µs")


class _Bench:
    """One router's recorder before busy workers."""

    def __init__(self, *, on: bool) -> None:
        self._shared = Shared()
        everyone = make_candidates(WORKERS, self._shared)
        self._choice = Choice(everyone.workers[:3], Reason.PREFIX_MATCH, 4096)
        self._accounts = self._shared.accounts()
        order = RecordingOrder(self._shared.segment)
        if on:
            order.give(Order(1 << 62, 1, SALT, 1 << 30))
        self._recorder = Recorder(
            order=order,
            table=self._shared.table,
            clock=self._shared.clock,
            assumed_answer_tokens=256,
            on_begun=lambda _number: None,
        )

    def request_micros(self, tokens: int) -> float:
        """The median of what a request waits for."""
        recorder, accounts, choice = self._recorder, self._accounts, self._choice
        # A few prompts, as their content makes no difference here.
        requests = [make_request(tokens, number) for number in range(16)]
        for request in requests:
            request.body = decode(decoder, b'{"model": "qwen", "messages": [], "max_tokens": 300, "stream": true}')
        times = []
        gc.collect()
        for number in range(REQUESTS):
            request = requests[number % len(requests)]
            flight = accounts.start(request, choice, record=False)
            accounts.answered(flight, status=200, served=choice.workers[0].address, streamed=True)
            started = perf_counter()
            arrived = recorder.began()
            if arrived:
                recorder.chosen(request, choice, policy="cache_aware", flight=flight, arrived=arrived)
            if flight.on_end is not None:
                flight.on_end()
            times.append(perf_counter() - started)
            flight.on_end = None
            accounts.finish(flight)
        return median(times) * 1e6

    def write_micros(self) -> float:
        """What writing takes for each of the requests, in batches as a busy router has them."""
        (batch,) = self._recorder.take()
        size = len(batch.requests) // FLUSHES
        with tempfile.TemporaryDirectory(prefix="extproc-bench-") as name:
            writer = PartWriter(directory=Path(name), slot=0, pid=1, sleep=sleep)
            started = perf_counter()
            for number in range(FLUSHES):
                writer.write(batch._replace(requests=batch.requests[number * size : (number + 1) * size]))
            elapsed = perf_counter() - started
            writer.close()
        return elapsed / (FLUSHES * size) * 1e6
