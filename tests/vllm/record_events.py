"""Records what a real vLLM announces of its cache, for the conformance tests: ``python -m tests.vllm.record_events``.

Drives one server with a cache of a few blocks through everything that a cache can do, one request at a time, and writes
the batches as they were on the wire beside what was asked and answered. Run it again for a new version of vLLM.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from tests.support.envoy import free_ports
from tests.support.event_reader import SILENCE_MS, EventReader
from tests.vllm.servers import VllmServer, vllm_executable
from workers.vllm.tiny_lora import shape_of, write_adapter
from workers.vllm.tiny_model import Shape, write_model

DEFAULT_OUT = Path(__file__).parents[1] / "conformance" / "kv_events"
HASHES = {"integers": "1", "bytes": "0"}
BLOCK_TOKENS = 32
# One request of the greatest length, some others beside it, and the block that vLLM keeps for itself.
BLOCKS = 49
MAX_MODEL_LEN = 1024
FLAGS = (
    *("--block-tokens", str(BLOCK_TOKENS), "--blocks", str(BLOCKS), "--max-model-len", str(MAX_MODEL_LEN)),
    # Long prompts are computed in several steps.
    *("--max-num-batched-tokens", "256"),
)
WORDS = "The engine keeps what it has computed and forgets what nobody asked for. "


class Recorder:
    """Sends requests to one server, each after everything about the one before it has been announced."""

    def __init__(self, server: VllmServer, reader: EventReader) -> None:
        self.requests: list[dict[str, Any]] = []
        self._server = server
        self._reader = reader

    def chat(self, name: str, text: str, *, max_tokens: int = 1, **fields: object) -> list[int]:
        """Ask in a chat; returns the tokens of prompt and answer."""
        return self._send(
            name, "/v1/chat/completions", {"messages": [{"role": "user", "content": text}], **fields}, max_tokens
        )

    def complete(self, name: str, ids: Sequence[int], *, max_tokens: int = 1, **fields: object) -> list[int]:
        """Complete token ids; returns them with those of the answer."""
        return self._send(name, "/v1/completions", {"prompt": list(ids), **fields}, max_tokens)

    def reset(self) -> None:
        """Empty the cache; announced together with the next request."""
        self._server.reset_prefix_cache()
        self.requests.append({"name": "reset", "batches_before": len(self._reader.payloads)})

    def _send(self, name: str, path: str, body: dict[str, object], max_tokens: int) -> list[int]:
        fixed = {"model": "tiny", "temperature": 0, "ignore_eos": True, "return_token_ids": True}
        before = len(self._reader.payloads)
        answer = self._server.post(path, {**fixed, **body, "max_tokens": max_tokens})
        self._reader.drain(silence_ms=SILENCE_MS)
        choice = answer["choices"][0]
        prompt = answer.get("prompt_token_ids") or choice["prompt_token_ids"]
        self.requests.append(
            {
                "name": name,
                "batches_before": before,
                "prompt": prompt,
                "answer": choice["token_ids"],
                "cached_tokens": answer["usage"]["prompt_tokens_details"]["cached_tokens"],
                "lora": body.get("model", ""),
                "cache_salt": body.get("cache_salt", ""),
            }
        )
        return [*prompt, *choice["token_ids"]]


def scenario(record: Recorder) -> None:
    """Everything that a cache can do."""
    record.complete("the first", range(100, 110))
    record.chat("a chat whose answer fills blocks", WORDS * 5, max_tokens=40)
    record.chat("the same chat", WORDS * 5, max_tokens=40)
    long = [300 + number % 2000 for number in range(700)]
    longer = record.complete("computed in several steps", long, max_tokens=3)
    record.complete("the same again", long, max_tokens=3)
    record.complete("whole blocks alone: the last is computed again", long[:640])
    record.complete("whole blocks alone, again", long[:640])
    record.complete("the conversation goes on", [*longer, *range(50, 90)], max_tokens=30)
    salted = long[:200]
    record.complete("a salt", salted, cache_salt="tenant-7")
    record.complete("the same salt", salted, cache_salt="tenant-7")
    record.complete("another salt", salted, cache_salt="tenant-8")
    record.complete("an adapter", salted, model="ad1", max_tokens=20)
    record.complete("the same adapter", salted, model="ad1", max_tokens=20)
    record.complete("an adapter and a salt", salted, model="ad1", cache_salt="tenant-7")
    for first in (3000, 3200):
        record.complete("drives others out", [first + number % 190 for number in range(600)])
    record.complete("the beginning is left", long)
    record.complete("nothing of the adapter is left", salted, model="ad1")
    record.complete("evicts and comes back", range(3000, 3000 + 190))
    record.reset()
    record.complete("after the reset", long[:200])
    record.chat("the chat after the reset", WORDS * 5, max_tokens=2)
    record.complete("what came back", long[:200], max_tokens=70)


def record(*, kind: str, out: Path, executable: Path, directory: Path) -> None:
    """Run the scenario on a server that writes hashes of this kind, and write both files."""
    model, adapter = directory / "model", directory / "ad1"
    if not model.exists():
        write_model(model, shape=Shape(), seed=0)
        write_adapter(adapter, shape=shape_of(model), base_model="tiny", seed=1)
    server = VllmServer(
        model=model,
        port=free_ports(1)[0],
        directory=directory,
        flags=[*FLAGS, "--lora", f"ad1={adapter}"],
        variables={"VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES": HASHES[kind]},
        executable=executable,
    )
    with server, EventReader(server.get("/kv_event_sources")["0"]) as reader:
        recorder = Recorder(server, reader)
        scenario(recorder)
        version = server.get("/version")["version"]
        assert reader.is_gapless()
        assert reader.replay() == reader.payloads
    head = {"vllm": version, "block_size": BLOCK_TOKENS, "usable_blocks": BLOCKS - 1}
    lines = ",\n".join(json.dumps(request, separators=(",", ":")) for request in recorder.requests)
    (out / f"{kind}.json").write_text(f'{json.dumps(head)[:-1]}, "requests": [\n{lines}\n]}}\n')
    (out / f"{kind}.bin").write_bytes(msgspec.msgpack.encode(reader.payloads))


def main() -> None:
    """Record both kinds of hashes."""
    parser = argparse.ArgumentParser(prog="python -m tests.vllm.record_events", description=__doc__)
    parser.add_argument("--vllm", type=Path, default=vllm_executable(), metavar="FILE")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, metavar="DIR")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        for kind in HASHES:
            record(kind=kind, out=options.out, executable=options.vllm, directory=Path(directory))


if __name__ == "__main__":
    main()
