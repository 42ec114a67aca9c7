"""Prompts become tokens on their way through Envoy: the right number, cached for all routers, refused where wrong."""

import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytest_asyncio

from tests.support.deployment import Deployment, data_plane, deployment, processing_mode
from tests.support.models import make_model
from tests.support.token_clients import (
    Reference,
    Reply,
    TokenClient,
    assistant,
    both_ready,
    both_served,
    served,
    serving,
    user,
)
from tests.support.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]

GOOD = ("qwen", "mistral_metaspace", "llama3")
BROKEN = "broken_truncated"
WORKER = serving(*GOOD, BROKEN, "unknown")
REPEATS = 9
LONG_BYTES = 300_000
ALTERNATE = "After the optional system message, conversation roles must alternate user/assistant/user/assistant/..."
FULL_DUPLEX = processing_mode(
    request_body_mode="FULL_DUPLEX_STREAMED",
    request_trailer_mode="SEND",
    response_header_mode="SEND",
    response_body_mode="FULL_DUPLEX_STREAMED",
    response_trailer_mode="SEND",
)


class Stage(NamedTuple):
    """A deployment of two routers with three good models and a broken one; workers serve any model."""

    deployed: Deployment
    client: TokenClient
    references: Mapping[str, Reference]


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {kind: make_model(root / kind, kind) for kind in (*GOOD, BROKEN)}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def running(directories: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    config = {"models": [{"name": kind, "source": str(path)} for kind, path in directories.items()]}
    references = {kind: Reference(directories[kind]) for kind in GOOD}
    async with (
        deployment(tmp_path_factory.mktemp("tokens"), config=config, models=(), worker_flags=WORKER) as deployed,
        TokenClient.open(deployed.envoy.url) as client,
    ):
        await until(lambda: both_ready(deployed))
        yield Stage(deployed, client, references)


@pytest_asyncio.fixture(loop_scope="module")
async def stage(running: Stage) -> Stage:
    async with TokenClient.open(running.deployed.service.admin_url) as admin:
        assert (await admin.post("/caches/flush")).body == {"flushed": True}
    return running


async def counted(deployed: Deployment, name: str, count: float, **labels: str) -> None:
    """Wait until a metric, which routers write now and then, has reached ``count``, and check that it stays there."""

    async def reached() -> bool:
        return await deployed.service.metric(name, **labels) >= count

    await until(reached)
    assert await deployed.service.metric(name, **labels) == count


@pytest.mark.parametrize("kind", GOOD)
async def test_a_chat_has_the_tokens_that_transformers_gives_and_is_known_to_both_routers(
    stage: Stage, kind: str
) -> None:
    messages = [user(f"Wie spät ist es in 東京, {kind}? <|im_start|> </s> 👍🏽" * 20)]
    expected = stage.references[kind].chat(messages)
    before = [await served(stage.deployed, index) for index in (0, 1)]
    replies = [await stage.client.chat(kind, messages) for _ in range(REPEATS)]
    assert replies[0].summary == (200, expected, "miss")
    assert [reply.summary for reply in replies[1:]] == [(200, expected, "level_0")] * (REPEATS - 1)
    assert sorted(reply.worker for reply in replies) == ["w0"] * 3 + ["w1"] * 3 + ["w2"] * 3
    await until(lambda: both_served(stage.deployed, before))


@pytest.mark.parametrize("kind", ["qwen", "llama3"])
async def test_a_conversation_that_grows_is_encoded_from_where_it_was(stage: Stage, kind: str) -> None:
    messages = [user("Tell me of the sea. " * 40)]
    caches = []
    for turn in range(6):
        reply = await stage.client.chat(kind, messages)
        assert (reply.status, reply.tokens) == (200, stage.references[kind].chat(messages))
        caches.append(reply.cache)
        messages += [assistant(f"It is {turn} miles wide. " * 9), user(f"And {turn} miles deep? " * 5)]
    assert caches == ["miss"] + ["level_1"] * 5


async def test_a_model_that_is_not_configured_is_routed_in_turn_without_tokens(stage: Stage) -> None:
    replies = [await stage.client.chat("unknown", [user("Hello")]) for _ in range(6)]
    assert [reply.summary for reply in replies] == [(200, None, None)] * 6
    assert sorted(reply.worker for reply in replies) == ["w0", "w0", "w1", "w1", "w2", "w2"]


@pytest.mark.parametrize(
    "messages",
    [
        [user("xylophone-1"), user("xylophone-2")],
        [user("xylophone-3"), assistant("xylophone-4"), {"role": "tool", "content": "xylophone-5"}],
    ],
    ids=["roles", "tool call ids"],
)
async def test_what_a_template_refuses_is_answered_400_in_its_own_words(
    stage: Stage, messages: list[dict[str, Any]]
) -> None:
    reply = await stage.client.chat("mistral_metaspace", messages)
    words = (
        ALTERNATE if messages[1]["role"] == "user" else "Tool call IDs should be alphanumeric strings with length 9!"
    )
    assert (reply.status, reply.headers["x-extproc-reason"]) == (400, "invalid_request")
    assert reply.body["error"] == {
        "message": words,
        "type": "invalid_request_error",
        "param": "messages",
        "code": None,
    }
    assert "x-worker" not in reply.headers
    assert "xylophone" not in stage.deployed.service.log.read_text()


@pytest.mark.parametrize("role", [7, None, ["user"]])
async def test_a_bad_role_is_answered_400_naming_the_field_and_logged_nowhere(stage: Stage, role: object) -> None:
    reply = await stage.client.chat("qwen", [user("xylophone"), {"role": role, "content": "xylophone"}])
    error = reply.body["error"]
    assert (reply.status, error["type"], error["param"]) == (400, "invalid_request_error", "messages[1].role")
    assert "xylophone" not in json.dumps(reply.body)
    assert "xylophone" not in stage.deployed.service.log.read_text()


async def test_a_refusal_on_the_anthropic_path_has_its_form(stage: Stage) -> None:
    messages = [user("one"), user("two")]
    reply = await stage.client.post("/v1/messages", model="mistral_metaspace", messages=messages, max_tokens=1)
    assert (reply.status, reply.body["type"]) == (400, "error")
    error = reply.body["error"]
    assert (error["type"], error["message"]) == ("invalid_request_error", ALTERNATE)


async def test_a_broken_model_is_named_counted_and_still_served(stage: Stage, directories: Mapping[str, Path]) -> None:
    service = stage.deployed.service
    await counted(stage.deployed, "extproc_model_loads_total", 2, model=BROKEN, encoder="none", reason="unusable")
    assert str(directories[BROKEN] / "tokenizer.json") in service.log.read_text()
    before = await service.metric("extproc_fallbacks_total", reason="model_unusable")
    replies = [await stage.client.chat(BROKEN, [user("Hello")]) for _ in range(4)]
    assert [reply.summary for reply in replies] == [(200, None, None)] * 4
    assert all(reply.worker and "x-worker" in reply.headers for reply in replies)
    await counted(stage.deployed, "extproc_fallbacks_total", before + 4, reason="model_unusable")
    beside = [user("Hello from beside")]
    assert (await stage.client.chat("qwen", beside)).tokens == stage.references["qwen"].chat(beside)


@pytest.mark.parametrize("kind", ["qwen", "mistral_metaspace"])
async def test_completions_of_a_text_texts_and_ids_have_tokens(stage: Stage, kind: str) -> None:
    reference, path = stage.references[kind], "/v1/completions"
    texts = [f"Once upon a time in {kind}", "there was a naïve 世界", ""]

    async def complete(prompt: object) -> Reply:
        return await stage.client.post(path, model=kind, prompt=prompt, max_tokens=1)

    assert (await complete(texts[0])).summary == (200, reference.text(texts[0]), "miss")
    assert (await complete(texts[0])).summary == (200, reference.text(texts[0]), "level_0")
    listed = await complete(texts)
    assert (listed.status, listed.tokens) == (200, sum(map(reference.text, texts)))
    assert (await complete([5, 6, 7, 8])).summary == (200, 4, "given")
    assert (await complete([[5, 6, 7], [8]])).summary == (200, 4, "given")


@pytest.mark.parametrize("kind", ["qwen", "mistral_metaspace"])
async def test_anthropic_messages_have_the_tokens_of_the_same_chat(stage: Stage, kind: str) -> None:
    content = [{"type": "text", "text": "What is the meaning of life?"}]
    turns = [{"role": "user", "content": content}, assistant("42"), user("Why?")]
    body = {"model": kind, "system": "Be brief.", "messages": turns, "max_tokens": 1}
    same = [
        {"role": "system", "content": "Be brief."},
        user("What is the meaning of life?"),
        assistant("42"),
        user("Why?"),
    ]
    expected = stage.references[kind].chat(same)
    assert (await stage.client.post("/v1/messages", **body)).summary == (200, expected, "miss")
    assert (await stage.client.post("/v1/messages", **body)).summary == (200, expected, "level_0")


@pytest.mark.parametrize("kind", ["qwen", "mistral_metaspace"])
async def test_responses_have_the_tokens_of_the_same_chat(stage: Stage, kind: str) -> None:
    turns = [user("What is the smell of rain?"), assistant("Petrichor."), user("Why?")]
    same = [{"role": "system", "content": "Be brief."}, *turns]
    expected = stage.references[kind].chat_with_special(same)
    body = {"model": kind, "instructions": "Be brief.", "input": turns, "max_output_tokens": 1}
    assert (await stage.client.post("/v1/responses", **body)).summary == (200, expected, "miss")
    assert (await stage.client.post("/v1/responses", **body)).summary == (200, expected, "level_0")
    alone = stage.references[kind].chat_with_special([user("Is it wet?")])
    reply = await stage.client.post("/v1/responses", model=kind, input="Is it wet?", max_output_tokens=1)
    assert (reply.status, reply.tokens) == (200, alone)


@pytest.mark.parametrize("streamed_first", [False, True], ids=["buffered", "full duplex"])
async def test_a_long_prompt_has_the_right_tokens_in_every_body_mode(stage: Stage, streamed_first: bool) -> None:
    """Long enough for a thread, and for a body in many pieces where it is streamed."""
    reference = stage.references["qwen"]
    text = "The quick brown fox — 敏捷的棕色狐狸 — jumps over 13 lazy dogs.\n"
    async with (
        data_plane(stage.deployed.service, edit=FULL_DUPLEX) as envoy,
        TokenClient.open(envoy.url) as streamed,
    ):
        first, second = (streamed, stage.client) if streamed_first else (stage.client, streamed)
        messages = [user(text * (LONG_BYTES // len(text)))]
        expected = reference.chat(messages)
        assert (await first.chat("qwen", messages)).summary == (200, expected, "miss")
        assert (await second.chat("qwen", messages)).summary == (200, expected, "level_0")
        messages += [assistant("They do."), user("And then?")]
        assert (await first.chat("qwen", messages)).summary == (200, reference.chat(messages), "level_1")
        bad = await first.chat("mistral_metaspace", [user("y" * LONG_BYTES), user("y")])
        assert (bad.status, bad.body["error"]["message"]) == (400, ALTERNATE)


async def test_metrics_tell_what_was_looked_up_and_reused(stage: Stage) -> None:
    service = stage.deployed.service

    async def known() -> list[float]:
        lookups = [("0", "hit"), ("0", "miss"), ("1", "hit"), ("1", "miss")]
        counts = [
            await service.metric("extproc_token_cache_lookups_total", model="llama3", level=level, result=result)
            for level, result in lookups
        ]
        origins = ("encoded", "reused")
        return counts + [
            await service.metric("extproc_prompt_bytes_total", model="llama3", origin=origin) for origin in origins
        ]

    async def has_grown() -> bool:
        return [now - then for now, then in zip((await known())[:4], before[:4], strict=True)] == [1, 2, 1, 1]

    messages = [user("Metrics, please. " * 50)]
    before = await known()
    await stage.client.chat("llama3", messages)
    await stage.client.chat("llama3", messages)
    await stage.client.chat("llama3", [*messages, assistant("Here."), user("More.")])
    await until(has_grown)
    encoded, reused = (now - then for now, then in zip((await known())[4:], before[4:], strict=True))
    assert len("Metrics, please. " * 50) < encoded < reused < 2 * encoded + 200


async def test_the_admin_port_tokenizes_as_routers_do(stage: Stage) -> None:
    messages = [user("What does the admin port say?")]
    expected = stage.references["llama3"].chat(messages)
    async with TokenClient.open(stage.deployed.service.admin_url) as admin:
        first = await admin.post("/tokenize", model="llama3", messages=messages)
        assert first.status == 200
        (prompt,) = first.body["prompts"]
        assert (prompt["count"], len(prompt["tokens"]), prompt["cache"]) == (expected, expected, "miss")
        assert "What does the admin port say?" in prompt["text"]
        assert (await stage.client.chat("llama3", messages)).summary == (200, expected, "level_0")
        unknown = await admin.post("/tokenize", model="unknown", messages=messages)
        assert (unknown.status, unknown.body["error"]["param"]) == (404, "model")
        broken = await admin.post("/tokenize", model=BROKEN, messages=messages)
        assert (broken.status, broken.body["error"]["param"]) == (503, "model")
        bad = await admin.post("/tokenize", model="mistral_metaspace", messages=[user("one"), user("two")])
        assert (bad.status, bad.body["error"]["message"]) == (400, ALTERNATE)


async def test_the_cache_is_shown_fills_and_is_emptied_for_all_routers(stage: Stage) -> None:
    service = stage.deployed.service
    messages = [user("Fill the cache. " * 400)]
    expected = stage.references["qwen"].chat(messages)
    before = (await service.admin("/caches"))["token_cache"]
    assert (await stage.client.chat("qwen", messages)).summary == (200, expected, "miss")
    filled = await service.admin("/caches")
    assert filled["token_cache"]["used_bytes"] > before["used_bytes"] + 4 * expected
    assert filled["token_cache"]["rows"] > before["rows"]
    assert [model["name"] for model in filled["models"]] == [*GOOD, BROKEN]
    assert await service.metric("extproc_token_cache_used_bytes") == filled["token_cache"]["used_bytes"]
    async with TokenClient.open(service.admin_url) as admin:
        assert (await admin.post("/caches/flush")).body == {"flushed": True}
    emptied = (await service.admin("/caches"))["token_cache"]
    assert (emptied["rows"], emptied["used_bytes"]) == (0, before["used_bytes"])
    replies = [(await stage.client.chat("qwen", messages)).summary for _ in range(REPEATS)]
    assert replies == [(200, expected, "miss")] + [(200, expected, "level_0")] * (REPEATS - 1)
