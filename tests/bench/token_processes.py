"""The share of text that the cache gives back, for one process and for four that share the same traffic."""

import json
import os
import random
from collections.abc import Iterator

from extproc.api.body import decode
from extproc.api.paths import DECODERS
from extproc.config.models import ModelSpec
from extproc.config.tokens import TokensSettings
from extproc.models.reader import PromptReader
from extproc.models.shelf import ModelShelf
from extproc.shm.segment import Segment
from extproc.shm.token_store import TokenStore
from extproc.telemetry.metrics import Metrics, TokenMetrics
from tests.support.readers import CHAT
from tests.support.stores import make_segment

CONVERSATIONS = 40
TURNS = 8
SYSTEM = "You answer questions about routing, briefly and with care. " * 30


def hit_rates(spec: ModelSpec) -> tuple[float, float]:
    """Return the share of bytes reused by one process, and by four that take the same requests in turn."""
    return _rate(spec, 1), _rate(spec, 4)


def traffic() -> Iterator[bytes]:
    """Conversations that grow turn by turn, interleaved, all with one system prompt."""
    rng = random.Random(3)
    growing = {number: [{"role": "system", "content": SYSTEM}] for number in range(CONVERSATIONS)}
    turns = [number for number in growing for _ in range(TURNS)]
    rng.shuffle(turns)
    for number in turns:
        messages = growing[number]
        messages.append({"role": "user", "content": f"{number}: " + " ".join(rng.choices("abcdefg", k=120))})
        yield json.dumps({"model": "bench", "messages": messages}).encode()
        messages.append({"role": "assistant", "content": " ".join(rng.choices("hijklmn", k=120))})


def _rate(spec: ModelSpec, processes: int) -> float:
    segment = make_segment()
    shares = [_Worker(spec, segment) for _ in range(processes)]
    rng = random.Random(5)
    reused = total = 0
    for body in traffic():
        one = rng.choice(shares).read(body)
        reused, total = reused + one[0], total + one[1]
    for share in shares:
        share.end()
    return reused / total


class _Worker:
    """A process that tokenizes what it is given and tells how many bytes were reused, of how many."""

    def __init__(self, spec: ModelSpec, segment: Segment) -> None:
        to_child, self._requests = os.pipe()
        self._answers, to_parent = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            os.close(self._requests)
            _serve(spec, segment, to_child, to_parent)
        os.close(to_child)
        os.close(to_parent)

    def read(self, body: bytes) -> tuple[int, int]:
        """Tokenize a body."""
        os.write(self._requests, len(body).to_bytes(4, "little") + body)
        reused, _, total = os.read(self._answers, 64).partition(b" ")
        return int(reused), int(total)

    def end(self) -> None:
        """End the process."""
        # An empty request: the end of the pipe is held open by the processes that were forked later.
        os.write(self._requests, bytes(4))
        os.close(self._requests)
        os.close(self._answers)
        os.waitpid(self._pid, 0)


def _serve(spec: ModelSpec, segment: Segment, requests: int, answers: int) -> None:
    settings = TokensSettings(verify_share=0.0, inline_secs=1.0)
    metrics = TokenMetrics()
    shelf = ModelShelf(settings=settings, store=TokenStore.of_segment(segment), metrics=metrics)
    shelf.update((spec,))
    reader = PromptReader(
        shelf=shelf, settings=settings, metrics=Metrics(), token_metrics=metrics, rng=random.Random(0)
    )
    with os.fdopen(requests, "rb") as stream:
        while size := int.from_bytes(stream.read(4), "little"):
            prompts = reader.read(decode(DECODERS[CHAT], stream.read(size)), spec.name)
            assert isinstance(prompts, tuple)
            os.write(answers, f"{prompts[0].reused_bytes} {prompts[0].text_bytes}".encode())
    os._exit(0)
