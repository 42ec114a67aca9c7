"""What one request, or one that nobody waits for any more, may cost a router."""

import asyncio
import threading
from pathlib import Path

import pytest

from extproc.config.models import ModelSpec
from extproc.config.tokens import TokensSettings
from extproc.errors import InvalidRequest
from extproc.index.block_hash import Ids
from extproc.models.reader import HUGE_BODY_BYTES, INLINE_PROMPTS, LONG_BODY_BYTES
from extproc.tokens.encoder import Encoder
from tests.support.readers import CHAT, Reading, make_spec, parse
from tests.support.stores import make_segment, open_store
from tests.support.waiting import until

COMPLETIONS = "/v1/completions"


class Recording:
    """An encoder that waits until it is let go, and remembers what it was given."""

    name = "recording"

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.gate = threading.Event()
        self.texts: list[str] = []

    def encode(self, text: str) -> Ids:
        self.texts.append(text)
        self.gate.wait()
        return self._encoder.encode(text)


@pytest.fixture
def spec(tmp_path: Path) -> ModelSpec:
    return make_spec(tmp_path, "qwen")


def record(reading: Reading) -> Recording:
    shelved = reading.shelf.find("qwen")
    assert shelved is not None
    assert shelved.model is not None
    encoder = shelved.model.cache.encoder = Recording(shelved.model.cache.encoder)
    return encoder


@pytest.mark.parametrize("prompt", ["a", [1]], ids=["texts", "ids"])
async def test_more_than_a_few_prompts_are_read_on_a_thread_however_short(prompt: object, spec: ModelSpec) -> None:
    reading = Reading(spec, store=open_store(make_segment()))
    few, more = [prompt] * INLINE_PROMPTS, [prompt] * (INLINE_PROMPTS + 1)
    assert len(reading.read("qwen", COMPLETIONS, prompt=few)) == len(few)
    later = reading.reader.read(parse(COMPLETIONS, model="qwen", prompt=more), "qwen")
    assert isinstance(later, asyncio.Future)
    assert len(await later) == len(more)
    reading.reader.close()


@pytest.mark.parametrize("prompt", ["a", [1]], ids=["texts", "ids"])
@pytest.mark.parametrize("padding", ["", " " * LONG_BODY_BYTES], ids=["short body", "long body"])
async def test_a_request_of_too_many_prompts_goes_on_without_tokens(
    prompt: object, padding: str, spec: ModelSpec
) -> None:
    reading = Reading(spec)
    most = TokensSettings().max_prompts
    for count, read in ((most, most), (most + 1, 0)):
        body = parse(COMPLETIONS, model="qwen", prompt=[prompt] * count)
        raw = bytes(body.prompt).replace(b"[", b"[" + padding.encode(), 1)  # type: ignore[attr-defined]
        later = reading.reader.read(type(body)(model="qwen", prompt=type(body.prompt)(raw)), "qwen")  # type: ignore[attr-defined, call-arg]
        assert isinstance(later, asyncio.Future)
        assert len(await later) == read
    assert reading.fallbacks("too_many_prompts") == 1
    assert reading.fallbacks("tokenize_failed") == 0
    reading.reader.close()


async def test_a_huge_body_is_looked_up_and_cut_on_a_thread(spec: ModelSpec) -> None:
    reading = Reading(spec, store=open_store(make_segment()))
    prompt = "word " * (HUGE_BODY_BYTES // 5 + 1)
    ids: list[int] = []
    for limit, cache in ((None, "miss"), (None, "level_0"), (5, "level_0")):
        body = parse(COMPLETIONS, model="qwen", prompt=prompt, truncate_prompt_tokens=limit, truncation_side="right")
        later = reading.reader.read(body, "qwen")
        assert isinstance(later, asyncio.Future)
        (tokens,) = await later
        assert tokens.cache == cache
        ids = ids or tokens.ids.tolist()
        assert tokens.ids.tolist() == ids[:limit]
    assert reading.counted("prompt_tokens", "qwen", "reused") == 2 * len(ids)
    reading.reader.close()


@pytest.mark.parametrize("how", ["cancelled", "timed out"])
async def test_what_nobody_waits_for_any_more_is_not_begun(how: str, spec: ModelSpec) -> None:
    reading = Reading(spec, inline_secs=0, encode_threads=1, max_wait_secs=0.01 if how == "timed out" else 60)
    encoder = record(reading)
    futures = []
    for text in ("first", "second"):
        future = reading.reader.read(parse(COMPLETIONS, model="qwen", prompt=text), "qwen")
        assert isinstance(future, asyncio.Future)
        futures.append(future)

    async def begun() -> bool:
        return bool(encoder.texts)

    async def idle() -> bool:
        return reading.reader._pending == 0

    await until(begun)
    if how == "cancelled":
        for future in futures:
            future.cancel()
    else:
        assert await asyncio.gather(*futures) == [(), ()]
    encoder.gate.set()
    await until(idle)
    assert encoder.texts == ["first"]
    reading.reader.close()


async def test_a_template_that_a_request_brings_runs_on_a_thread(tmp_path: Path) -> None:
    reading = Reading(make_spec(tmp_path, "qwen", trust_request_chat_template=True), make_spec(tmp_path, "llama3"))
    messages = [{"role": "user", "content": "Hi."}]
    later = reading.reader.read(parse(CHAT, model="qwen", messages=messages, chat_template="{{ 1 }}"), "qwen")
    assert isinstance(later, asyncio.Future)
    assert len(await later) == 1
    assert len(reading.read("qwen", messages=messages)) == 1
    with pytest.raises(InvalidRequest):
        reading.read("llama3", messages=messages, chat_template="{{ 1 }}")
    reading.reader.close()


def test_prompts_without_tokens_take_no_room(spec: ModelSpec) -> None:
    store = open_store(make_segment())
    reading = Reading(spec, store=store)
    for _ in range(2):
        (prompt,) = reading.read("qwen", COMPLETIONS, prompt="", add_special_tokens=False)
        assert len(prompt.ids) == len(prompt.block_hashes) == 0
    assert store.state().used_bytes == 0
