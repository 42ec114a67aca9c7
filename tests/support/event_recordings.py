"""What a real vLLM announced of its cache: the recordings in ``tests/conformance/kv_events``."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

RECORDINGS = Path(__file__).parents[1] / "conformance" / "kv_events"
KINDS = ("integers", "bytes")
RESET = "reset"


class Asked(NamedTuple):
    """One request, or a reset of the cache, and the batches that it brought about, as they were on the wire."""

    name: str
    payloads: Sequence[bytes]
    prompt: Sequence[int] = ()
    answer: Sequence[int] = ()
    cached_tokens: int = 0
    lora: str = ""
    cache_salt: str = ""

    @property
    def tokens(self) -> list[int]:
        """Those of the prompt and of the answer."""
        return [*self.prompt, *self.answer]


class EventRecording(NamedTuple):
    """One life of an engine, whose cache has ``usable_blocks`` of ``block_size`` tokens."""

    block_size: int
    usable_blocks: int
    payloads: Sequence[bytes]
    asked: Sequence[Asked]


def event_recording(kind: str) -> EventRecording:
    """Read one of the ``KINDS``, which differ in the hashes."""
    payloads = msgspec.msgpack.decode((RECORDINGS / f"{kind}.bin").read_bytes(), type=list[bytes])
    written = json.loads((RECORDINGS / f"{kind}.json").read_text())
    requests = written["requests"]
    ends = [one["batches_before"] for one in requests[1:]] + [len(payloads)]
    asked = [
        Asked(payloads=payloads[one.pop("batches_before") : end], **one)
        for one, end in zip(requests, ends, strict=True)
    ]
    return EventRecording(written["block_size"], written["usable_blocks"], payloads, asked)
