"""Reading prompts in a router: at once or on a thread, within bounds, and never at the cost of the request."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

from extproc.api.prompt_input import ChatInput
from extproc.config.models import ModelSpec
from extproc.errors import InvalidRequest
from extproc.index.block_hash import Ids, block_hashes
from extproc.models.model import Model
from extproc.models.reader import LONG_BODY_BYTES
from extproc.tokens.prompt_tokens import PromptTokens
from tests.support.readers import CHAT, Gated, Reading, make_spec, parse
from tests.support.stores import make_segment, open_store
from tests.support.waiting import until

COMPLETIONS = "/v1/completions"
SECRET = "a rather confidential question"
HELLO = [{"role": "user", "content": "Hello, world!"}]
LONGER = [*HELLO, {"role": "assistant", "content": "Hi!"}, {"role": "user", "content": "How are you?"}]


class Failing:
    """An encoder that fails as a library might, and quotes the text."""

    name = "failing"

    def encode(self, text: str) -> Ids:
        raise RuntimeError(f"cannot take {text}")


@pytest.fixture
def spec(tmp_path: Path) -> ModelSpec:
    return make_spec(tmp_path, "qwen", aliases=("alias",), lora_adapters=("adapter",), block_size=4)


def model_of(reading: Reading, name: str = "qwen") -> Model:
    shelved = reading.shelf.find(name)
    assert shelved is not None
    assert shelved.model is not None
    return shelved.model


def gate(reading: Reading) -> threading.Event:
    """Let nothing be encoded until the event is set."""
    cache = model_of(reading).cache
    encoder = Gated(cache.encoder)
    cache.encoder = encoder
    return encoder.gate


def start(reading: Reading, path: str = CHAT, **fields: Any) -> "asyncio.Future[tuple[PromptTokens, ...]]":  # noqa: ANN401
    """Read a body that is left to a thread."""
    future = reading.reader.read(parse(path, model="qwen", **fields), "qwen")
    assert isinstance(future, asyncio.Future)
    return future


def same(one: PromptTokens, other: PromptTokens) -> bool:
    return np.array_equal(one.ids, other.ids) and np.array_equal(one.block_hashes, other.block_hashes)


def expected_ids(model: Model, messages: list[Any]) -> list[int]:
    ids: list[int] = model.backend.encoder.encode(model.render(ChatInput(messages=messages))[0]).tolist()
    return ids


def test_a_name_that_is_not_configured_has_no_tokens_and_a_checked_body(spec: ModelSpec) -> None:
    reading = Reading(spec)
    assert reading.read("unknown", messages=HELLO) == ()
    with pytest.raises(InvalidRequest):
        reading.read("unknown", messages=[{"content": "no role"}])


def test_aliases_are_the_model_and_adapters_are_apart(spec: ModelSpec) -> None:
    reading = Reading(spec, store=open_store(make_segment()))
    named, alias, adapter = (reading.chat(name, HELLO) for name in ("qwen", "alias", "adapter"))
    assert [prompt.cache for prompt in (named, alias, adapter)] == ["miss", "level_0", "miss"]
    assert same(named, alias)
    assert np.array_equal(named.ids, adapter.ids)
    assert not set(named.block_hashes.tolist()) & set(adapter.block_hashes.tolist())
    assert reading.chat("adapter", HELLO).cache == "level_0"


def test_a_body_without_a_prompt_that_can_be_known_has_no_tokens(spec: ModelSpec) -> None:
    reading = Reading(spec)
    assert reading.read("qwen", COMPLETIONS) == ()
    assert reading.read("qwen", COMPLETIONS, prompt="x", prompt_embeds="AAAA") == ()


def test_requests_to_a_model_that_cannot_be_loaded_go_on_without_tokens(tmp_path: Path) -> None:
    reading = Reading(make_spec(tmp_path, "broken_truncated"))
    assert reading.read("broken_truncated", messages=HELLO) == ()
    assert reading.fallbacks("model_unusable") == 1


def test_a_prompt_that_is_too_long_goes_on_without_tokens(spec: ModelSpec) -> None:
    reading = Reading(spec, max_prompt_bytes=1024)
    assert reading.read("qwen", COMPLETIONS, prompt="x" * 900) != ()
    assert reading.read("qwen", COMPLETIONS, prompt="x" * 1100) == ()
    assert reading.fallbacks("prompt_too_long") == 1


def test_a_second_reading_finds_everything(spec: ModelSpec) -> None:
    reading = Reading(spec, store=open_store(make_segment()))
    first, second = (reading.chat("qwen", HELLO) for _ in range(2))
    assert (first.cache, second.cache) == ("miss", "level_0")
    assert same(first, second)
    assert reading.counted("token_lookups", "qwen", "0", "hit") == 1
    assert reading.counted("token_lookups", "qwen", "1", "miss") == 1


def test_every_prompt_of_a_body_is_read_and_counted(spec: ModelSpec) -> None:
    reading = Reading(spec, store=open_store(make_segment()))
    found = reading.read("qwen", COMPLETIONS, prompt=["one", "two", "one"])
    assert [len(prompt.ids) > 0 for prompt in found] == [True] * 3
    assert same(found[0], found[2])
    assert [len(prompt.ids) for prompt in reading.read("qwen", COMPLETIONS, prompt=[[1, 2], [3]])] == [2, 1]
    assert (
        reading.counted("token_lookups", "qwen", "0", "miss") + reading.counted("token_lookups", "qwen", "0", "hit")
        == 3
    )


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_prompt_is_cut_after_it_is_cached_whole(side: str, spec: ModelSpec) -> None:
    reading = Reading(spec, store=open_store(make_segment()))
    for cache in ("miss", "level_0"):
        cut = reading.chat("qwen", HELLO, truncate_prompt_tokens=5, truncation_side=side)
        whole = reading.chat("qwen", HELLO)
        assert (cut.cache, whole.cache) == (cache, "level_0")
        assert cut.ids.tolist() == (whole.ids[-5:] if side == "left" else whole.ids[:5]).tolist()
        assert np.array_equal(cut.block_hashes, block_hashes(cut.ids, block_size=4, before=whole.root))


def test_a_template_that_refuses_is_the_clients_fault(spec: ModelSpec, tmp_path: Path) -> None:
    (tmp_path / "qwen" / "chat_template.jinja").write_text("{{ raise_exception('Only one at a time.') }}")
    reading = Reading(spec)
    with pytest.raises(InvalidRequest, match="Only one at a time"):
        reading.read("qwen", messages=HELLO)
    assert reading.fallbacks("tokenize_failed") == 0


async def test_what_takes_long_is_encoded_on_a_thread_with_the_same_result(spec: ModelSpec) -> None:
    inline = Reading(spec).chat("qwen", LONGER)
    reading = Reading(spec, inline_secs=0)
    (later,) = await start(reading, messages=LONGER)
    assert same(inline, later)
    reading.reader.close()


async def test_what_is_known_needs_no_thread(spec: ModelSpec) -> None:
    reading = Reading(spec, store=open_store(make_segment()), inline_secs=0)
    (first,) = await start(reading, messages=HELLO)
    assert same(reading.chat("qwen", HELLO), first)
    assert reading.read("qwen", COMPLETIONS, prompt=[1, 2, 3]) != ()
    reading.reader.close()


async def test_a_long_body_is_read_on_a_thread_from_the_start(spec: ModelSpec) -> None:
    reading = Reading(spec, inline_secs=1.0)
    text = "word " * (LONG_BODY_BYTES // 5)
    messages = [{"role": "user", "content": text}]
    (prompt,) = await start(reading, messages=messages)
    assert prompt.ids.tolist() == expected_ids(model_of(reading), messages)
    refused = start(reading, messages=[*messages, {"content": "no role"}])
    with pytest.raises(InvalidRequest) as refusal:
        await refused
    assert refusal.value.param == "messages[1].role"
    reading.reader.close()


async def test_a_prompt_that_is_not_encoded_in_time_goes_on_without_tokens(spec: ModelSpec) -> None:
    reading = Reading(spec, inline_secs=0, max_wait_secs=0.01, encode_threads=1)
    event = gate(reading)
    assert await start(reading, messages=HELLO) == ()
    assert reading.fallbacks("encode_timeout") == 1
    event.set()
    await until(lambda: idle(reading))
    assert reading.fallbacks("tokenize_failed") == 0
    reading.reader.close()


async def idle(reading: Reading) -> bool:
    return reading.reader._pending == 0


async def test_no_more_wait_for_a_thread_than_may(spec: ModelSpec) -> None:
    reading = Reading(spec, inline_secs=0, encode_threads=1, max_pending_encodings=2)
    event = gate(reading)
    waiting = [start(reading, messages=HELLO) for _ in range(2)]
    assert reading.read("qwen", messages=HELLO) == ()
    assert reading.fallbacks("encode_queue_full") == 1
    event.set()
    assert [len(prompts) for prompts in await asyncio.gather(*waiting)] == [1, 1]
    await until(lambda: idle(reading))
    (prompt,) = await start(reading, messages=HELLO)
    assert len(prompt.ids) > 0
    reading.reader.close()


async def test_a_request_that_ends_meanwhile_harms_nobody(spec: ModelSpec, caplog: pytest.LogCaptureFixture) -> None:
    reading = Reading(spec, inline_secs=0, encode_threads=1)
    event = gate(reading)
    first, second = (start(reading, messages=HELLO) for _ in range(2))
    first.cancel()
    event.set()
    assert len(await second) == 1
    assert caplog.records == []
    reading.reader.close()


def test_a_fault_of_our_own_leaves_the_request_without_tokens_and_tells_no_prompt(
    spec: ModelSpec, caplog: pytest.LogCaptureFixture
) -> None:
    reading = Reading(spec)
    model_of(reading).cache.encoder = Failing()
    assert reading.read("qwen", messages=[{"role": "user", "content": SECRET}]) == ()
    assert reading.fallbacks("tokenize_failed") == 1
    assert "Tokenizing failed: RuntimeError" in caplog.text
    assert "prompt.encode()" in caplog.text
    assert "confidential" not in caplog.text


async def test_a_fault_on_a_thread_leaves_the_request_without_tokens_and_tells_no_prompt(
    spec: ModelSpec, caplog: pytest.LogCaptureFixture
) -> None:
    reading = Reading(spec, inline_secs=0)
    model_of(reading).cache.encoder = Failing()
    assert await start(reading, messages=[{"role": "user", "content": SECRET}]) == ()
    assert reading.fallbacks("tokenize_failed") == 1
    assert "Tokenizing failed: RuntimeError" in caplog.text
    assert "confidential" not in caplog.text
    reading.reader.close()


def verified(reading: Reading, result: str) -> Callable[[], Any]:
    async def condition() -> bool:
        return reading.counted("prefix_verifications", "qwen", result) == 1

    return condition


async def test_a_prefix_that_was_used_is_verified(spec: ModelSpec) -> None:
    reading = Reading(spec, store=open_store(make_segment()), verify_share=1.0)
    reading.chat("qwen", HELLO)
    assert reading.chat("qwen", LONGER).cache == "level_1"
    await until(verified(reading, "ok"))
    assert reading.counted("prefix_verifications", "qwen", "mismatch") == 0
    assert model_of(reading).uses_prefixes
    reading.reader.close()


async def test_no_prefix_is_verified_where_none_shall_be(spec: ModelSpec) -> None:
    reading = Reading(spec, store=open_store(make_segment()), verify_share=0.0)
    reading.chat("qwen", HELLO)
    assert reading.chat("qwen", LONGER).cache == "level_1"
    assert await idle(reading)
    reading.reader.close()


def poison(model: Model, messages: list[Any], adapter: str = "") -> None:
    """Store wrong ids under the key of the longest prefix of a conversation."""
    store = model.cache.store
    assert store is not None
    text = model.render(ChatInput(messages=messages))[0].encode()
    size = model.cache.boundaries.in_text(text)[-1]
    namespace = model.namespace(adapter=adapter, cache_salt="")
    digest = xxhash.xxh3_128(namespace.key + text[:size], seed=store.secret).digest()
    first, second = np.frombuffer(digest, dtype=np.uint64).tolist()
    ids = np.arange(11, dtype=np.uint32)
    store.put(
        parent=None,
        depth=0,
        ids=ids,
        hashes=block_hashes(ids, block_size=namespace.block_size, before=namespace.root),
        block_size=namespace.block_size,
        keys=[(first, second)],
        tokens=[len(ids)],
        sizes=[size],
    )


async def test_a_wrong_prefix_is_found_out_and_prefixes_are_off_in_every_process(spec: ModelSpec) -> None:
    segment = make_segment()
    reading, neighbour = (Reading(spec, store=open_store(segment), verify_share=1.0) for _ in range(2))
    right = expected_ids(model_of(reading), LONGER)
    poison(model_of(reading), LONGER)
    wrong = reading.chat("qwen", LONGER)
    assert (wrong.cache, wrong.ids.tolist() == right) == ("level_1", False)
    await until(verified(reading, "mismatch"))
    assert not model_of(reading).uses_prefixes
    assert reading.counted("prefixes_off", "qwen", "mismatch") == 1
    for _ in range(2):
        assert reading.chat("qwen", LONGER).ids.tolist() == right
    assert model_of(neighbour).uses_prefixes
    neighbour.shelf.update([spec])
    assert not model_of(neighbour).uses_prefixes
    found = neighbour.chat("qwen", LONGER)
    assert (found.cache, found.ids.tolist() == right) == ("level_0", True)
    assert reading.chat("adapter", [*LONGER, *LONGER]).cache == "miss"
    assert reading.counted("prefix_verifications", "qwen", "ok") == 0
    for one in (reading, neighbour):
        one.reader.close()


def test_the_time_that_reading_takes_is_observed(spec: ModelSpec) -> None:
    reading = Reading(spec)
    for _ in range(3):
        reading.chat("qwen", HELLO)
    reading.reader.flush()
    (family,) = reading.token_metrics.tokenize_seconds.collect()
    (count,) = [sample.value for sample in family.samples if sample.name.endswith("_count")]
    assert count == 3


def test_texts_count_as_encoded_or_reused(spec: ModelSpec) -> None:
    reading = Reading(spec, store=open_store(make_segment()))
    first = reading.chat("qwen", HELLO)
    longer = reading.chat("qwen", LONGER)
    encoded = first.text_bytes + longer.text_bytes - longer.reused_bytes
    assert reading.counted("prompt_bytes", "qwen", "encoded") == encoded
    assert reading.counted("prompt_bytes", "qwen", "reused") == longer.reused_bytes > 0
    assert reading.counted("prompt_tokens", "qwen", "reused") == longer.reused_tokens > 0


def test_a_short_beginning_of_a_long_prompt_is_not_worth_a_look_up(spec: ModelSpec) -> None:
    long = [{"role": "user", "content": "Hello. " * 200}]
    asked, unasked = (
        Reading(spec, store=open_store(make_segment()), min_prefix_bytes=0),
        Reading(spec, store=open_store(make_segment())),
    )
    for reading, cache in ((asked, "level_1"), (unasked, "miss")):
        reading.chat("qwen", HELLO)
        assert reading.chat("qwen", long).cache == cache
        assert reading.chat("qwen", [*long, *LONGER]).cache == "level_1"
