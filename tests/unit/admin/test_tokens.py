"""The admin pages about tokens, over HTTP: what becomes of a prompt, the cache, and emptying it."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from extproc.admin.app import AdminServer
from extproc.config.models import ModelSpec
from extproc.observer.tokens import ObservedTokens
from extproc.shm.segment import Segment
from tests.support.processes import python_child
from tests.support.readers import Reading, make_spec
from tests.support.recordings import observed_recording
from tests.support.service_state import FakeState
from tests.support.stores import make_segment, open_store

HELLO = [{"role": "user", "content": "Hello, world!"}]
HOLD_THE_LOCK = """
import fcntl, sys
fcntl.lockf(int(sys.argv[1]), fcntl.LOCK_EX, 1)
print("held", flush=True)
sys.stdin.read()
"""


class Client:
    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def get(self, path: str) -> tuple[int, Any]:
        async with self._session.get(path) as response:
            return response.status, await response.json()

    async def post(self, path: str, body: object = b"") -> tuple[int, Any]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with self._session.post(path, data=data) as response:
            return response.status, await response.json()


@asynccontextmanager
async def admin(*specs: ModelSpec, segment: Segment | None) -> AsyncIterator[Client]:
    store = None if segment is None else open_store(segment)
    tokens = ObservedTokens(shelf=Reading(store=store).shelf, store=store, specs=lambda: specs)
    server = AdminServer(
        address="127.0.0.1:0",
        state=FakeState(),
        registry=CollectorRegistry(),
        tokens=tokens,
        recording=observed_recording(),
    )
    address = await server.start()
    try:
        async with aiohttp.ClientSession(f"http://{address}") as session:
            yield Client(session)
    finally:
        await server.close()


async def test_shows_what_becomes_of_a_text(tmp_path: Path) -> None:
    async with admin(make_spec(tmp_path, "qwen", block_size=2), segment=make_segment()) as client:
        for cache in ("miss", "level_0"):
            status, page = await client.post("/tokenize", {"model": "qwen", "prompt": "Hello<|im_end|> world"})
            (seen,) = page["prompts"]
            assert (status, seen["cache"], seen["text"]) == (200, cache, "Hello<|im_end|> world")
            assert (seen["count"], seen["blocks"]) == (len(seen["tokens"]), len(seen["tokens"]) // 2)
            (cut,) = seen["boundaries"]
            assert (cut["bytes"], cut["after"]) == (len("Hello<|im_end|>"), "<|im_end|>")
            assert seen["seconds"].keys() == {"recall", "prepare", "encode", "finish"}


async def test_shows_what_becomes_of_messages(tmp_path: Path) -> None:
    async with admin(make_spec(tmp_path, "qwen", lora_adapters=("lora",)), segment=make_segment()) as client:
        status, page = await client.post("/tokenize", {"model": "lora", "messages": HELLO})
    (seen,) = page["prompts"]
    assert status == 200
    assert seen["text"].endswith("user\nHello, world!<|im_end|>\n<|im_start|>assistant\n")
    assert (seen["model"], seen["adapter"], seen["exact"]) == ("qwen", "lora", True)


@pytest.mark.parametrize(
    ("body", "status", "param", "code"),
    [
        ({"model": "unknown", "prompt": "x"}, 404, "model", "model_not_found"),
        ({"model": "broken_template", "prompt": "x"}, 503, "model", "no_endpoint"),
        ({"model": 1, "prompt": "x"}, 400, "model", None),
        ({"prompt": "x"}, 400, "model", None),
        ({"model": "qwen", "prompt": 1}, 400, "prompt", None),
        ({"model": "qwen", "messages": [{"content": "x"}]}, 400, "messages[0].role", None),
        ({"model": "qwen", "messages": HELLO, "chat_template": "x"}, 400, "chat_template", None),
        ({"model": "qwen"}, 400, None, None),
        (b"{", 400, None, None),
        (b"", 400, None, None),
    ],
)
async def test_a_request_that_is_refused_is_told_why(
    body: object, status: int, param: str | None, code: str | None, tmp_path: Path
) -> None:
    specs = make_spec(tmp_path, "broken_template"), make_spec(tmp_path, "qwen")
    async with admin(*specs, segment=make_segment()) as client:
        got, page = await client.post("/tokenize", body)
    assert (got, page["error"]["param"], page["error"]["code"]) == (status, param, code)
    assert page["error"].keys() == {"message", "type", "param", "code"}
    assert page["error"]["message"]


async def test_the_cache_is_shown_and_emptied(tmp_path: Path) -> None:
    segment = make_segment()
    spec = make_spec(tmp_path, "qwen", aliases=("alias",))
    router = Reading(spec, store=open_store(segment))
    router.chat("qwen", HELLO)
    async with admin(spec, segment=segment) as client:
        status, page = await client.get("/caches")
        assert status == 200
        assert page["models"] == [{"name": "qwen", "aliases": ["alias"], "lora_adapters": [], "block_size": 16}]
        cache = page["token_cache"]
        assert 0 < cache["used_bytes"] < cache["capacity_bytes"]
        assert 0 < cache["rows"] < cache["max_rows"]
        assert router.chat("qwen", HELLO).cache == "level_0"
        assert await client.post("/caches/flush") == (200, {"flushed": True})
        _, page = await client.get("/caches")
        assert (page["token_cache"]["used_bytes"], page["token_cache"]["rows"]) == (0, 0)
    assert [router.chat("qwen", HELLO).cache for _ in range(2)] == ["miss", "level_0"]


async def test_emptying_is_refused_while_another_process_claims_room(tmp_path: Path) -> None:
    segment = make_segment()
    router = Reading(make_spec(tmp_path, "qwen"), store=open_store(segment))
    router.chat("qwen", HELLO)
    async with admin(segment=segment) as client:
        with python_child(HOLD_THE_LOCK, str(segment.fd), pass_fds=(segment.fd,)) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "held\n"
            status, page = await client.post("/caches/flush")
            assert (status, page.keys()) == (503, {"error"})
            assert router.chat("qwen", HELLO).cache == "level_0"
        assert await client.post("/caches/flush") == (200, {"flushed": True})
    assert router.chat("qwen", HELLO).cache == "miss"


async def test_a_service_without_a_cache_tokenizes_and_has_nothing_to_empty(tmp_path: Path) -> None:
    async with admin(make_spec(tmp_path, "qwen"), segment=None) as client:
        _, page = await client.post("/tokenize", {"model": "qwen", "prompt": "x"})
        assert page["prompts"][0]["cache"] == "off"
        _, page = await client.get("/caches")
        assert page["token_cache"] is None
        assert await client.post("/caches/flush") == (200, {"flushed": True})


async def test_the_cache_is_emptied_by_post_alone(tmp_path: Path) -> None:
    async with admin(segment=make_segment()) as client:
        status, _ = await client.get("/caches/flush")
        assert status == 405
        status, _ = await client.get("/tokenize")
        assert status == 405
